"""Telling: history, figures, words, files, loggers, alerts."""
