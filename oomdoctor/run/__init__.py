"""Launching a command, sampling NVML beside it, and the run folder that both leave behind."""
