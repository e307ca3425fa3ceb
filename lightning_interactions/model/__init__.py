"""Asking somebody's model without leaving a trace: batches, calls, scores, tasks, layers."""
