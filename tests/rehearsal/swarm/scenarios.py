"""Deploys to a Swarm of three machines, under load."""

from tests.rehearsal.rehearsal import Rehearsal


def first_deploy_to_swarm(rehearsal: Rehearsal) -> None:
    """First deploy to an empty Swarm."""
    server = rehearsal.server
    server.add_settings(rehearsal.application.settings)
    rehearsal.merge_and_expect_live("first", "The application")
    rehearsal.prepare()
    rehearsal.start_traffic()
