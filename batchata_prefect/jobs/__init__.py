"""From a row to a rendered request on disk, cut into chunks."""
