"""The pages below the timeline. Each is a module with ``ID``, ``TITLE``, ``layout()`` and ``register()``.

- ``layout()`` returns the page's components, empty; their ids begin with ``ID``.
- ``register(app, library)`` adds its callbacks. They take ``Input(ids.SHOWN, "data")``, do nothing while
  another page is open (``shown["tab"] != ID``), and change what is looked at by writing
  ``Output(ids.VIEW, "data", allow_duplicate=True)`` with :func:`oomdoctor_dashboard.view.changed`.
"""
