"""All scenarios, in the order in which they run."""

from tests.rehearsal.scenarios.by_hand import (
    first_edition,
    own_backup,
    services_under_the_lock,
    settings_as_compose_reads_them,
    settings_during_a_deploy,
)
from tests.rehearsal.scenarios.endurance import killed, soak
from tests.rehearsal.scenarios.everyday import (
    code_change,
    configuration_and_page_change,
    first_deploy,
    locked_down,
    never_healthy,
    order,
    public_lie,
    roll_back,
    roll_back_under_load,
    roll_forward,
    wrong_input,
)
from tests.rehearsal.scenarios.ledger import notes_with_keys, same_story
from tests.rehearsal.scenarios.releases import bad_migrations, bad_releases, odd_releases, restores
from tests.rehearsal.scenarios.surroundings import (
    bad_surroundings,
    cut_off,
    database_down,
    database_restarts,
    engine_restarts,
    notified,
    prunes,
    reboots,
    unwritable,
)

# A scenario may need a release of an earlier one.
SCENARIOS = (
    first_deploy,
    code_change,
    configuration_and_page_change,
    never_healthy,
    roll_back,
    roll_forward,
    order,
    roll_back_under_load,
    public_lie,
    locked_down,
    wrong_input,
    same_story,
    notes_with_keys,
    bad_releases,
    bad_migrations,
    restores,
    odd_releases,
    bad_surroundings,
    unwritable,
    cut_off,
    notified,
    prunes,
    engine_restarts,
    reboots,
    database_down,
    database_restarts,
    settings_as_compose_reads_them,
    own_backup,
    settings_during_a_deploy,
    services_under_the_lock,
    first_edition,
    killed,
    soak,
)
