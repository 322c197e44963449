"""The scripts in scripts/, without a Docker engine."""

import fcntl
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.sh"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(*command, **options):
    options = {"cwd": ROOT, "stdin": subprocess.DEVNULL, "timeout": 20} | options
    return subprocess.run(["bash", *command], capture_output=True, text=True, check=False, **options)


@pytest.fixture
def server(tmp_path):
    """Return a function that runs deploy.sh in a directory like that of a server, without a Docker engine."""
    shutil.copy(ROOT / "scripts/deploy.sh", tmp_path)
    shutil.copytree(ROOT / "scripts/server", tmp_path / "server", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "releases").mkdir()
    (tmp_path / ".env").write_text((ROOT / ".env.prod").read_text())

    def deploy(*arguments, ssh_command=None, **settings):
        text = (tmp_path / ".env").read_text() if (tmp_path / ".env").exists() else None
        for name, value in settings.items():
            text = re.sub(f"^{name}=.*", f"{name}={value}", text, flags=re.MULTILINE)
        if text:
            (tmp_path / ".env").write_text(text)
        environment = os.environ | {"DOCKER_HOST": "unix:///missing"}
        if ssh_command:
            environment["SSH_ORIGINAL_COMMAND"] = ssh_command
        return run(tmp_path / "deploy.sh", *arguments, env=environment, cwd="/")

    deploy.directory = tmp_path
    return deploy


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_prints_usage(script):
    done = run(f"scripts/{script}", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: ")
    assert done.stderr == ""


@pytest.mark.parametrize("script", SCRIPTS)
def test_unknown_argument_is_rejected(script):
    done = run(f"scripts/{script}", "--no-such-option")
    assert done.returncode == 2
    assert "--help" in done.stderr


@pytest.mark.parametrize(
    "ssh_command",
    [
        None,
        "",
        "id",
        "deploy",
        f"deploy {COMMIT[:-1]}",
        f"deploy {COMMIT}0",
        f"deploy {COMMIT.upper()}",
        f"deploy {COMMIT}; id",
        f"deploy {COMMIT}\nid",
        f"deploy $(id){COMMIT}",
        f" deploy {COMMIT}",
        f"ssh deploy {COMMIT}",
        f"deploy {COMMIT} ",
        "status\n",
        "status; id",
        "--help",
        "--ssh",
    ],
)
def test_ssh_key_cannot_run_other_commands(server, ssh_command):
    done = server("--ssh", ssh_command=ssh_command)
    assert done.returncode == 2
    assert "the deploy key accepts only 'status' and 'deploy <commit" in done.stderr
    assert "uid=" not in done.stdout + done.stderr


def test_ssh_key_can_request_a_deploy(server):
    done = server("--ssh", ssh_command=f"deploy {COMMIT}")
    assert done.returncode == 1
    assert "the Docker engine is not responding" in done.stdout


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"IMAGE": ""}, "must be the name of an image"),
        ({"COMPOSE_PROJECT_NAME": ""}, "must be a name in lower case"),
        ({"COMPOSE_PROJECT_NAME": "Quai"}, "must be a name in lower case"),
        ({"IMAGE_TAG": "", "DEPLOY_ID": "1"}, "must be a commit (40 hex digits)"),
        ({"IMAGE_TAG": "latest"}, "must be a commit (40 hex digits)"),
        ({"WATCH_SECONDS": "0"}, "must be a whole number, 1 or more"),
        ({"NOTIFY_URL": "chat.example.com"}, "must be a URL"),
    ],
)
def test_invalid_setting_is_reported(server, settings, message):
    done = server(**settings)
    assert done.returncode == 2
    assert f"{next(iter(settings))} in " in done.stderr
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_missing_env_file_is_explained(server):
    (server.directory / ".env").unlink()
    done = server()
    assert done.returncode == 2
    assert "setup-server.sh creates it" in done.stderr


@pytest.mark.parametrize("quoted", ["{}", '"{}"', "'{}'"])
def test_quoted_setting_is_parsed_as_compose_parses_it(server, quoted):
    done = server(IMAGE_TAG=quoted.format(COMMIT))
    assert "the Docker engine is not responding" in done.stdout


def test_lock_timeout_reports_the_other_deploy(server):
    program = server.directory / "server/state.py"
    program.write_text(program.read_text().replace("LOCK_SECONDS = 900", "LOCK_SECONDS = 1"))
    (server.directory / "deploy.lock").write_text("another commit\n")
    with subprocess.Popen(["flock", server.directory / "deploy.lock", "cat"], stdin=subprocess.PIPE) as holder:
        while not run("-c", f"flock --nonblock {server.directory}/deploy.lock true").returncode:
            pass  # wait until the lock is held
        done = server(IMAGE_TAG=COMMIT)
        holder.stdin.close()
    assert done.returncode == 1
    assert "waiting up to 1 s for another deploy: another commit" in done.stdout
    assert "refused: another deploy is still running: another commit" in done.stdout
    assert done.stdout.endswith("nothing was deployed\n")


@pytest.mark.parametrize("lock_held", [False, True])
def test_deploy_that_cannot_start_restores_the_tag(server, lock_held):
    """Without an engine, or with another deploy running, a rollback fails and is not repeated at the next boot."""
    live = "1" * 40
    program = server.directory / "server/state.py"
    program.write_text(program.read_text().replace("LOCK_SECONDS = 900", "LOCK_SECONDS = 0"))
    line = f'{{"id": "100", "time": "2026-01-02T03:04:05Z", "tag": "{live}", "outcome": "live", "by": "a person"}}\n'
    (server.directory / "deploys.log").write_text(line)
    with (server.directory / "deploy.lock").open("w") as lock:
        if lock_held:
            fcntl.flock(lock, fcntl.LOCK_EX)
        done = server(IMAGE_TAG=COMMIT, DEPLOY_ID="100")
    assert done.returncode == 1
    assert done.stdout.endswith("nothing was deployed\n")
    assert f"\nIMAGE_TAG={live}\n" in (server.directory / ".env").read_text()


IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")


def test_branches_are_created_once(tmp_path):
    def git(*command):
        return subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet", "--initial-branch=main")
    git(*IDENTITY, "commit", "--quiet", "--allow-empty", "--message=one")
    first = run(ROOT / "scripts/branches.sh", "feature/one", cwd=tmp_path)
    branches = git("branch", "--format=%(refname:short)").split()
    again = run(ROOT / "scripts/branches.sh", "feature/one", cwd=tmp_path)
    assert first.returncode == again.returncode == 0
    assert branches == ["dev", "feature/one", "main"] == git("branch", "--format=%(refname:short)").split()
    assert "created" not in again.stdout


def test_branch_is_pushed_even_if_a_longer_name_ends_with_it(tmp_path):
    def git(*command):
        return subprocess.run(["git", *command], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet", "--initial-branch=main")
    git(*IDENTITY, "commit", "--quiet", "--allow-empty", "--message=one")
    git("init", "--quiet", "--bare", "origin")
    git("remote", "add", "origin", f"{tmp_path}/origin")
    git("push", "--quiet", "origin", "main:feature/dev")
    done = run(ROOT / "scripts/branches.sh", "--push", "feature/one", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pushed = git("-C", "origin", "branch", "--format=%(refname:short)").split()
    assert pushed == ["dev", "feature/dev", "feature/one", "main"]


def run_engine(functions, user=None, plugins="/missing", links="/missing"):
    """Run engine.sh with shell functions in place of commands, and with other directories of plugins."""
    script = (ROOT / "scripts/engine.sh").read_text()
    script = script.replace("/usr/libexec/docker", str(plugins)).replace("/usr/local/lib/docker", str(links))
    environment = os.environ | {f"BASH_FUNC_{name}%%": f"() {{ {body}; }}" for name, body in functions.items()}
    return run("-c", script, env=environment, cwd="/", user=user)


def test_engine_that_only_root_can_start_is_explained():
    nobody = 65534 if os.geteuid() == 0 else None
    done = run_engine({"docker": "false", "dockerd": "true", "systemctl": "echo started"}, user=nobody)
    assert (done.returncode, done.stdout) == (1, "")
    assert "run 'sudo scripts/engine.sh'" in done.stderr
    assert "join the group docker" in done.stderr


def test_missing_plugin_is_reported_and_leaves_no_dangling_link(tmp_path):
    docker = "[[ $1 == info || $1 == version ]]"
    done = run_engine({"docker": docker, "dockerd": "true"}, plugins=tmp_path / "none", links=tmp_path / "docker")
    assert done.returncode == 1
    assert "'docker compose' or 'docker buildx' is missing" in done.stderr
    assert not (tmp_path / "docker/cli-plugins/*").is_symlink()


@pytest.fixture
def setup(tmp_path):
    """Return a function that runs functions of setup-server.sh, in a clone and a directory of their own."""
    (tmp_path / "scripts").mkdir()
    text = (ROOT / "scripts/setup-server.sh").read_text().removesuffix('main "$@"\n')
    text = text.replace("/etc/docker/daemon.json", str(tmp_path / "daemon.json"))
    text = text.replace("key=/root/", f"key={tmp_path}/")
    shutil.copy(ROOT / ".env.prod", tmp_path)
    shutil.copy(ROOT / "scripts/deploy.sh", tmp_path / "scripts")
    shutil.copytree(ROOT / "scripts/server", tmp_path / "scripts/server")

    def setup(code, *options):
        options = ["--image", "example/quai", "--dir", tmp_path / "srv", *options]
        script = tmp_path / "scripts/setup-server.sh"
        script.write_text(f'{text}usermod() {{ :; }}\nkey=/missing\nread_options "$@"\n{code}\n')
        return run(script, *options)

    setup.directory = tmp_path / "srv"
    return setup


def test_setup_leaves_a_setting_empty_that_has_to_be_set_on_the_server(setup):
    (setup.directory.parent / ".env.prod").write_text("KEY=change-me # set it on the server\nMAIL=a@b.c # the team\n")
    assert setup(CREATE).returncode == 0
    assert (setup.directory / ".env").read_text() == "KEY=\nMAIL=a@b.c # the team\n"


def test_setup_uses_another_template_next_to_the_project_s_own_env_prod(setup):
    (setup.directory.parent / ".env.pipeline").write_text("A=1\n")
    assert setup(CREATE).returncode == 0
    assert (setup.directory / ".env").read_text() == "A=1\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_setup_uses_the_primary_group_of_an_existing_user(setup):
    done = setup("make_user; make_directory; site=:80; make_env", "--user", "nobody")
    assert done.returncode == 0, done.stderr
    nobody = pwd.getpwnam("nobody")
    found = [path.lstat() for path in [setup.directory, *setup.directory.rglob("*")]]
    assert {(status.st_uid, status.st_gid) for status in found} == {(nobody.pw_uid, nobody.pw_gid)}


CREATE = 'mkdir -p "$dir"; user=$(id -un) group=$(id -gn); check_env; make_env; echo "$site"'


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        ([], [], ""),
        (["--site", "api.example.com"], [], ""),
        (["--site", "api.example.com"], ["--site", "api.example.com"], ""),
        ([], ["--image", "other/quai"], "--image is 'other/quai', but IMAGE in "),
        ([], ["--site", "api.example.com"], "--site is 'api.example.com', but SITE_ADDRESS in "),
    ],
)
def test_setup_refuses_options_that_contradict_the_env_file(setup, first, second, error):
    created = setup(CREATE, *first)
    assert created.returncode == 0, created.stderr
    before = (setup.directory / ".env").read_text()
    again = setup(CREATE, *second)
    assert (again.returncode, again.stdout) == ((2, "") if error else (0, created.stdout))
    assert error in again.stderr
    if error:
        change = re.search("To change it: sudo (sed .*?)(?: &&|$)", again.stderr)[1]
        assert (setup.directory / ".env").read_text() == before
        subprocess.run(change, shell=True, check=True)  # noqa: S602 - the printed command
        assert setup(CREATE, *second).returncode == 0


@pytest.mark.parametrize("value", ["change-me", "change-me-to-a-long-token", '"change-me"', "'change-me'"])
def test_setup_replaces_placeholders(setup, value):
    env_prod = setup.directory.parent / ".env.prod"
    others = "TITLE=please change-me\nDSN=user=app password=change-me\nLAST=without newline"
    env_prod.write_text(f"IMAGE=\nSITE_ADDRESS=\nAPI_TOKEN={value}\nlower={value}\n{others}")
    assert setup(CREATE).returncode == 0
    found = (setup.directory / ".env").read_text()
    generated = "[0-9a-f]{48}"
    assert re.fullmatch(
        f"IMAGE=example/quai\nSITE_ADDRESS=:80\nAPI_TOKEN={generated}\nlower={generated}\n{others}\n", found
    )


@pytest.mark.parametrize("is_deployed", [False, True])
def test_setup_prints_commands_that_apply_another_site_only_if_a_release_is_live(setup, is_deployed):
    assert setup(CREATE).returncode == 0
    if is_deployed:
        env = setup.directory / ".env"
        env.write_text(env.read_text().replace("DEPLOY_ID=\n", "DEPLOY_ID=1\n"))
    again = setup(CREATE, "--site", "api.example.com")
    assert again.stderr.rstrip().endswith("/deploy.sh") is is_deployed, again.stderr


MAKE_KEY = """
user=$(id -un) group=$(id -gn) home=$(dirname "$0")
ssh-keygen() { touch "$key"; echo "ssh-ed25519 $RANDOM$RANDOM quai-deploy" >"$key.pub"; }
make_key; cat "$home/.ssh/authorized_keys"
"""


@pytest.mark.parametrize(("options", "is_kept"), [([], True), (["--new-key"], False), (["--dir", "/elsewhere"], False)])
def test_setup_keeps_the_key_of_this_directory(setup, options, is_kept):
    first, second = setup(MAKE_KEY), setup(MAKE_KEY, *options)
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("\n") == 1
    assert (second.stdout == first.stdout) == is_kept
    assert ('command="/elsewhere/deploy.sh --ssh"' in second.stdout) == ("--dir" in options)


def test_setup_refuses_a_site_with_a_scheme(setup):
    done = setup("", "--site", "http://api.example.com")
    assert done.returncode == 2
    assert "--site must be an address without a scheme" in done.stderr


@pytest.mark.parametrize(
    ("site", "url", "ports"),
    [
        (":80", "http://server", ""),
        (":80", "http://server:8080", "HTTP_PORT=8080"),
        (":80", "http://server", "HTTP_PORT=192.0.2.1:80"),
        ("api.example.com", "https://api.example.com", "HTTP_PORT=8080"),
        ("api.example.com", "https://api.example.com:8443", "HTTPS_PORT=8443"),
        ("api.example.com, www.example.com", "https://api.example.com", ""),
        ("http://api.example.com", "http://api.example.com", ""),
    ],
)
def test_setup_prints_the_public_url(setup, site, url, ports):
    setup.directory.mkdir()
    (setup.directory / ".env").write_text(f"{ports}\n")
    done = setup(f"site='{site}'; cut() {{ :; }}; print_next", "--host", "server")
    assert f"PUBLIC_URL --env production --body '{url}'\n" in done.stdout


@pytest.mark.parametrize(("user", "login"), [("root", "root@server"), ("admin", "admin@server sudo -n")])
def test_setup_prints_the_command_that_reads_the_key_as_the_user_who_ran_it(setup, user, login):
    done = setup(f"key=/etc/hostname site=:80 SUDO_USER={user}; cut() {{ :; }}; print_next", "--host", "server")
    assert f"ssh -p 22 {login} cat /etc/hostname | gh secret set DEPLOY_KEY --env production &&\n" in done.stdout


def test_setup_reloads_every_engine(setup):
    functions = "docker() { echo false inactive; }; pidof() { echo 11 12; }; kill() { printf '<%s>' \"$@\"; }"
    done = setup(f"{functions}; keep_containers_running")
    assert done.stdout == "<-HUP><11><12>"


@pytest.fixture
def nox(tmp_path):
    """Return a function that runs scripts/nox; its Python records the commands and installs a nox that does nothing."""
    tools, checkout = tmp_path / "tools", tmp_path / "checkout"
    tools.mkdir()
    for tool in ("bash", "cat", "chmod", "dirname", "grep", "mkdir", "rm"):
        (tools / tool).symlink_to(shutil.which(tool))
    (checkout / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/nox", checkout / "scripts")
    (checkout / "scripts/pyproject.toml").write_text('nox = ["nox==1"]\n')
    bin = checkout / ".nox/runner/bin"
    script = "#!/bin/bash\\necho $NOX_ENABLE_STALENESS_CHECK"
    install = f"mkdir -p {bin}; for name in nox pip; do printf '{script}' >{bin}/$name; chmod +x {bin}/$name; done"

    def nox(python=True):
        if python:
            (tools / "python3").write_text(
                f'#!/bin/bash\necho "$*" >>{tmp_path}/log\n[[ $2 != virtualenv ]] || {{ {install}; }}\n'
            )
            (tools / "python3").chmod(0o755)
        (tmp_path / "log").write_text("")
        done = run(checkout / "scripts/nox", env={"PATH": str(tools)})
        return done, "virtualenv" in (tmp_path / "log").read_text()

    nox.checkout = checkout
    return nox


def test_nox_requires_python(nox):
    done, _ = nox(python=False)
    assert done.returncode == 1
    assert done.stderr.startswith("nox: Python 3.11 or later with pip is required")


def test_nox_is_installed_again_only_after_a_version_changed(nox):
    for nox_version, uv_version, installed in [(1, 1, True), (1, 1, False), (2, 1, True), (2, 2, True), (2, 2, False)]:
        pins = f'nox = ["nox=={nox_version}"]\nuv = ["uv=={uv_version}"]\n# {installed}\n'
        (nox.checkout / "scripts/pyproject.toml").write_text(pins)
        done, has_installed = nox()
        assert (done.returncode, has_installed) == (0, installed), done.stderr


def test_nox_does_not_reuse_environments_of_another_python(nox):
    assert nox()[0].stdout.endswith("1\n")


def test_the_pipeline_does_not_know_the_sample():
    files = [ROOT / "noxfile.py", *(ROOT / "scripts").rglob("*"), *(ROOT / ".github").rglob("*")]
    texts = {path: path.read_text(errors="ignore") for path in files if path.is_file() and path.suffix != ".pyc"}
    assert len(texts) > 40
    known = re.compile(r"\bservice/|(?:from|import) service\b|-m\W+service\b")
    assert {path.name for path, text in texts.items() if known.search(text)} == set()


@pytest.mark.parametrize(
    ("workflow", "triggers"),
    [
        ("ci", "on:\n  pull_request:\n    branches: [main, dev]\n  push:\n    branches: [dev]\n\n"),
        ("cd", "on:\n  push:\n    branches: [main]\n\n"),
    ],
)
def test_workflows_have_the_required_triggers(workflow, triggers):
    assert triggers in (ROOT / f".github/workflows/{workflow}.yml").read_text()
