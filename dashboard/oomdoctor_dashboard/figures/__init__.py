"""Figures: pure functions from tables to what plotly.js draws. They know nothing of Dash."""
