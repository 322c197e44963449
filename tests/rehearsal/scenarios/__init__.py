"""All scenarios, in the order in which they run."""

from collections.abc import Callable

from tests.rehearsal.rehearsal import Rehearsal
from tests.rehearsal.sample.database import database_outage, database_restart, external_database
from tests.rehearsal.sample.ledger import consistent_records, idempotent_notes
from tests.rehearsal.sample.page import page_change
from tests.rehearsal.sample.releases import locking_migration, restore_after_data_loss
from tests.rehearsal.sample.upgrade import upgrade_from_version_1
from tests.rehearsal.scenarios.by_hand import (
    env_notations,
    manual_backup,
    services_during_a_deploy,
    settings_during_a_deploy,
)
from tests.rehearsal.scenarios.connections import websockets
from tests.rehearsal.scenarios.endurance import kill_matrix, soak
from tests.rehearsal.scenarios.everyday import (
    code_change,
    commit_order,
    compose_change,
    first_deploy,
    invalid_input,
    key_restrictions,
    roll_back,
    roll_back_under_load,
    roll_forward,
    unhealthy_release,
    wrong_public_url,
)
from tests.rehearsal.scenarios.releases import (
    dump_without_space,
    faulty_migrations,
    faulty_releases,
    unusual_releases,
)
from tests.rehearsal.scenarios.roles import workers_and_schedulers
from tests.rehearsal.scenarios.surroundings import (
    concurrent_deploys,
    dropped_connection,
    engine_restarts,
    pruning,
    reboots,
    registry_outage,
    unwritable_env_file,
    webhooks,
)
from tests.rehearsal.swarm.machines import (
    manager_restarted,
    network_cut,
    node_added,
    node_cannot_pull,
    node_drained,
    node_killed,
)
from tests.rehearsal.swarm.scenarios import (
    faulty_releases_on_swarm,
    first_deploy_to_swarm,
    many_deploys,
    moving,
    seconds_by_replicas,
    settings_on_swarm,
    workers_on_swarm,
)

# A scenario may need a release of an earlier one.
SCENARIOS = (
    first_deploy,
    code_change,
    compose_change,
    unhealthy_release,
    roll_back,
    roll_forward,
    page_change,
    commit_order,
    roll_back_under_load,
    wrong_public_url,
    key_restrictions,
    invalid_input,
    consistent_records,
    idempotent_notes,
    faulty_releases,
    faulty_migrations,
    dump_without_space,
    locking_migration,
    restore_after_data_loss,
    unusual_releases,
    workers_and_schedulers,
    websockets,
    registry_outage,
    concurrent_deploys,
    unwritable_env_file,
    dropped_connection,
    webhooks,
    pruning,
    engine_restarts,
    reboots,
    database_outage,
    database_restart,
    external_database,
    env_notations,
    manual_backup,
    settings_during_a_deploy,
    services_during_a_deploy,
    upgrade_from_version_1,
    kill_matrix,
    soak,
)
SWARM_SCENARIOS = (
    first_deploy_to_swarm,
    code_change,
    compose_change,
    unhealthy_release,
    roll_back,
    roll_forward,
    page_change,
    commit_order,
    roll_back_under_load,
    wrong_public_url,
    key_restrictions,
    invalid_input,
    consistent_records,
    idempotent_notes,
    faulty_releases_on_swarm,
    faulty_migrations,
    dump_without_space,
    locking_migration,
    workers_on_swarm,
    registry_outage,
    node_cannot_pull,
    concurrent_deploys,
    unwritable_env_file,
    dropped_connection,
    webhooks,
    settings_on_swarm,
    many_deploys,
    node_drained,
    node_added,
    node_killed,
    network_cut,
    manager_restarted,
    restore_after_data_loss,
    moving,
    seconds_by_replicas,
    kill_matrix,
    soak,
)
# These know the sample, and run only when it is rehearsed.
SAMPLE = (
    page_change,
    consistent_records,
    idempotent_notes,
    locking_migration,
    restore_after_data_loss,
    database_outage,
    database_restart,
    external_database,
    upgrade_from_version_1,
)


def scenarios_for(engine: str = "compose", *, sample: bool) -> list[Callable[[Rehearsal], None]]:
    """Return the scenarios of the sample, or of any other application, on one server or on a Swarm."""
    scenarios = SWARM_SCENARIOS if engine == "swarm" else SCENARIOS
    return [scenario for scenario in scenarios if sample or scenario not in SAMPLE]
