"""The pages below the timeline. Each is a module with ``ID``, ``TITLE``, ``layout()`` and ``register()``.

- ``layout()`` returns the page's components, empty; their ids begin with ``ID``.
- ``register(app, library)`` adds its callbacks. They take ``Input(shown_id(ID), "data")``
  (:mod:`oomdoctor_dashboard.gates`), and change what is looked at by writing
  ``Output(ids.VIEW, "data", allow_duplicate=True)``: in the browser, or with
  :func:`oomdoctor_dashboard.view.only_what_changes`.
- Outputs are what each call writes; the rest is written by the way (:mod:`oomdoctor_dashboard.by_the_way`).
"""
