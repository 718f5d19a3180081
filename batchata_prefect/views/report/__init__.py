"""What a run came to, for a person: in the log, in the Prefect UI, as text and as a page."""
