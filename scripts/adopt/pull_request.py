"""The text of the pull request that adds the pipeline."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import jinja2

from scripts.adopt.configuration import sort_settings, unknown_settings
from scripts.adopt.facts import Facts
from scripts.adopt.generate import CD, CI, DEPENDABOT, has_backup
from scripts.adopt.plan import RECORD, Plan, quai_version
from scripts.adopt.proof import Result
from scripts.adopt.repository import Repository
from scripts.runner.process import ROOT, run

WHAT = {
    "docker-compose.prod.yml": "what runs in production: the command, the settings, the services",
    ".env.prod": "template of the server's settings, with placeholders for secrets",
    "Dockerfile": "the image of a release",
    "noxfile.py": "the commands of developers and workflows",
    ".dockerignore": "files that are not in the image",
    "rehearsal.toml": "the requests of the rehearsal, a test on a throwaway server",
    CI: "runs before a merge",
    CD: "deploys each push to main",
    DEPENDABOT: "updates the pinned images and actions",
}


def describe(repository: Repository, facts: Facts, plan: Plan, results: list[Result]) -> str:
    """Return the text of the pull request, in Markdown; `results` are those of the proof."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "messages"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown
    )
    return environment.get_template("pull-request.md.jinja").render(
        added=len(plan.files),
        files=[(repository.place(plan.names[name]), WHAT[name]) for name in WHAT if name in plan.names],
        scripts=repository.place("scripts/"),
        record=repository.place(RECORD),
        compose_file=repository.place(plan.names.get("docker-compose.prod.yml", "docker-compose.prod.yml")),
        env_template=repository.place(plan.names.get(".env.prod", ".env.prod")),
        findings=list(facts.findings.items()),
        left_alone=[(repository.place(name), reason) for name, reason in plan.left_alone.items()],
        notes=facts.notes,
        settings=list(_settings(facts)),
        origin=_origin(),
        version=quai_version(),
        has_backup=has_backup(facts),
        has_database=facts.has_database,
        results=", ".join(f"{result.session} {result.outcome}" for result in results),
        steps=list(_steps(repository, facts)),
    )


def _settings(facts: Facts) -> Iterator[tuple[str, str]]:
    """Yield the kinds of settings, and their names with the places that read them."""
    found = sort_settings(facts)
    sources = {setting.name: f" ({setting.source})" for setting in facts.settings}
    kinds = {
        "for you to set": found.unknown,
        "generated on the server": found.secrets,
        "addresses of services": found.composed,
        "from the domain, or fixed": found.derived,
    }
    for kind, items in kinds.items():
        if items:
            yield kind, ", ".join(f"`{name}`{sources.get(name, '')}" for name, _ in items)
    if optional := [f"`{name}`" for name, value in found.environment if not value]:
        yield "not set: the code has a default, which has to suit production", ", ".join(optional)


def _steps(repository: Repository, facts: Facts) -> Iterator[str]:
    setup = repository.place("scripts/setup-server.sh")
    without = (
        "it is required, because the application redirects plain HTTP" if facts.requires_https else "without it, HTTP"
    )
    yield (
        f"Set up a server, in a clone of this branch on it: `sudo {setup} --image ghcr.io/OWNER/{facts.name}"
        f" --site DOMAIN` (`--site` enables HTTPS; {without}). It generates the secrets in `/srv/quai/.env`."
    )
    if unknown := unknown_settings(facts):
        yield f"Set these there: {', '.join(unknown)}."
    yield "Store the server's key and addresses in GitHub, as the output of `setup-server.sh` says."
    yield "Merge this to `dev`, and `dev` to `main`: this is the first deploy."
    if has_backup(facts):
        yield (
            "Back up the database every night, and copy the dump to another machine: a deploy dumps it only before a"
            " migration. In `/srv/quai`: `docker compose run --rm -T --no-deps backup >FILE`"
        )


def _origin() -> str:
    """Return where the clone of Quai comes from; empty if that is not on the network."""
    try:
        url = run("git", "-C", str(ROOT), "config", "--get", "remote.origin.url")
    except subprocess.CalledProcessError:
        return ""
    return f" ({url})" if url.startswith("https://") and "@" not in url else ""
