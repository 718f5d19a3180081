"""What Prefect keeps of a run."""
