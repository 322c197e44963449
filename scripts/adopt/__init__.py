"""Add the pipeline to an existing repository. Nothing of that repository is imported or run to find out what it is."""
