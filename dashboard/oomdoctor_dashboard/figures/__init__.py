"""Figures: pure functions from tables to ``go.Figure``. They know nothing of Dash."""
