"""From a reply's row to `results.jsonl`, frames, and a URL."""
