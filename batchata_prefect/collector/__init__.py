"""Runs whose process is gone: seen, adopted, canceled, collected from the records alone."""
