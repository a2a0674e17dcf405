"""Findings: one rule a module, each with the evidence it stands on. Pure: values in, values out."""
