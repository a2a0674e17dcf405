"""Ids of the components that pages share. A page's own ids begin with its ID: ``segments-graph``."""

VIEW = "view"
"""dcc.Store: the view that is wanted, a dict; see :mod:`oomdoctor_dashboard.view`. Pages write to it."""

SHOWN = "shown"
"""dcc.Store: the same view, once what it shows is loaded. Pages read it as it comes through the gates."""

MESSAGES = "messages"
"""dmc.NotificationContainer: ``sendNotifications`` takes what a person has to know now."""
