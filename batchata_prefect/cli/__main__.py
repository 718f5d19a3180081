"""`python -m batchata_prefect.cli`: the `batchata` command."""

from batchata_prefect.cli import main

if __name__ == "__main__":
    main()
