"""Scenarios of the sample in service/; they run only when it is rehearsed."""

# Left out of the copy: a repository with the pipeline has only tests of its own, which cd.yml runs for each merge.
PIPELINE_TESTS = "tests/(?!service/)"
