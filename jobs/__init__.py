"""The steps of the night, one command each: `python -m jobs.<step> --help`."""
