"""The description of an application, `rehearsal.toml`: what it says, and how its problems are reported."""

import re
import tomllib

import pytest

from scripts.runner.process import ROOT
from tests.rehearsal.application import (
    Application,
    Change,
    Count,
    Credentials,
    Invariant,
    Request,
    WebSocket,
    fill,
    read,
)
from tests.rehearsal.checked_toml import InvalidFile, locate_keys

SHOP = """
needs_dns = true
prepare = ["exec -T api python manage.py createsuperuser --noinput"]
settings = { ALLOWED_HOSTS = "localhost" }

[credentials]
request = { method = "POST", path = "/login", body = '{"password": "${ADMIN_PASSWORD}"}' }
token = "access.token"
headers = { Authorization = "Bearer ${token}" }

[[requests]]
path = "/"

[[requests]]
method = "POST"
path = "/orders?host=${ALLOWED_HOSTS}"
credentials = true
body = '''
{"reference": "${id}"}
'''
status = 202
counted = "orders"
[requests.headers]
Content-Type = "application/json"

[counts.orders]
request = { path = "/orders/all", credentials = true }
field = "items.reference"
wait = 2.5

[counts.mails]
command = "exec -T db psql -At -c 'select id from mails'"

[[requests]]
method = "PUT"
path = "/mails/${id}"
counted = "mails"

[[invariants]]
name = "two schedulers at the same time"
command = "exec -T db psql -At -c 'select count(*) from overlaps'"
expected = "0"

[change]
file = "shop/app.py"
old = "one"
new = "two"
path = "/docs"
text = "two"

[websocket]
path = "/ws?token=${API_TOKEN}"
send = "hello from ${first_commit}"
receive = "echo"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ".env.prod").write_text("ADMIN_PASSWORD=change-me\nAPI_TOKEN=change-me\n")
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/app.py").write_text("zero, one, three, three")
    return tmp_path


def read_text(folder, text):
    (folder / "rehearsal.toml").write_text(text)
    return read(folder, "/health")


def problems(folder, text):
    with pytest.raises(InvalidFile) as caught:
        read_text(folder, text)
    return str(caught.value).splitlines()


def test_default_requests_accept_any_status_below_500(tmp_path):
    expected = Application("/health", (Request("/health", status=None), Request("/", status=None)))
    assert read(tmp_path, "/health") == expected
    assert read(tmp_path, "/").requests == (Request("/", status=None),)
    assert not expected.can_count


def test_file_without_requests_keeps_the_default_requests(folder):
    application = read_text(folder, 'settings = { ALLOWED_HOSTS = "" }')
    assert application.requests == read(folder / "shop", "/health").requests
    assert application.settings == {"ALLOWED_HOSTS": ""}


def test_requests_of_a_file_or_one_of_them_need_dns(folder):
    requests = read_text(folder, "needs_dns = true").requests
    assert [request.needs_dns for request in requests] == [True, True]
    one = "[[requests]]\npath = '/'\n[[requests]]\npath = '/a'\nneeds_dns = true"
    assert [request.needs_dns for request in read_text(folder, one).requests] == [False, True]


def test_all_keys_are_read(folder):
    application = read_text(folder, SHOP)
    order = Request(
        path="/orders?host=${ALLOWED_HOSTS}",
        method="POST",
        headers={"Content-Type": "application/json"},
        body='{"reference": "${id}"}\n',
        credentials=True,
        status=202,
        counted="orders",
        needs_dns=True,
    )
    login = Request("/login", "POST", body='{"password": "${ADMIN_PASSWORD}"}')
    assert application == Application(
        health_path="/health",
        requests=(
            Request("/", needs_dns=True),
            order,
            Request("/mails/${id}", "PUT", counted="mails", needs_dns=True),
        ),
        settings={"ALLOWED_HOSTS": "localhost"},
        prepare=("exec -T api python manage.py createsuperuser --noinput",),
        credentials=Credentials({"Authorization": "Bearer ${token}"}, login, "access.token"),
        counts={
            "orders": Count(request=Request("/orders/all", credentials=True), field="items.reference", wait=2.5),
            "mails": Count(command="exec -T db psql -At -c 'select id from mails'"),
        },
        invariants=(
            Invariant("two schedulers at the same time", "exec -T db psql -At -c 'select count(*) from overlaps'", "0"),
        ),
        change=Change("shop/app.py", "one", "two", "/docs", "two"),
        websocket=WebSocket("/ws?token=${API_TOKEN}", "hello from ${first_commit}", "echo"),
    )
    assert application.can_count
    assert [request.is_read for request in application.requests] == [True, False, False]


def test_sample_describes_itself(tmp_path):
    change = tomllib.loads((ROOT / "rehearsal.toml").read_text())["change"]
    for name in ("rehearsal.toml", ".env.prod", change["file"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        # While the change is rehearsed, these tests run with it.
        (tmp_path / name).write_text((ROOT / name).read_text().replace(change["new"], change["old"]))
    (tmp_path / "rehearsal.toml").write_text((ROOT / "rehearsal.toml").read_text())
    application = read(tmp_path, "/healthz")
    assert application.can_count
    assert application.change
    methods = [request.method for request in application.requests]
    assert methods == ["POST", "GET", "GET", "GET", "GET"]
    assert [request.path for request in application.requests].count("/version") == 2


def test_example_of_the_readme_is_valid(folder):
    page = (ROOT / "tests/rehearsal/README.md").read_text()
    [example] = re.findall("```toml\n(.*?)```", page, re.DOTALL)
    (folder / "shop/app.py").write_text('title="Shop"')
    application = read_text(folder, example)
    assert [request.counted for request in application.requests] == ["", "orders"]
    assert application.websocket == WebSocket("/ws", "hello", "echo: hello")


WEBSOCKET = "[websocket]\npath = '/ws'\nsend = 'a'\n"
REQUEST = "[[requests]]\npath = '/'\n"
WRITE = f"{REQUEST}[[requests]]\nmethod = 'POST'\npath = '/orders'\nbody = '${{id}}'\n"
COUNTED = f"{WRITE}counted = 'orders'\n"
PLACEHOLDERS = "${first_commit}, or a setting of .env.prod or rehearsal.toml"
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = 1\nb == 2", "2: not TOML: Invalid value"),
        ("a = 1\nb = [", "2: not TOML: Invalid value"),
        ("a = 1", "1: a is unknown: expected one of settings, credentials, needs_dns, counts, requests"),
        ("\nrequests = 'one'", '2: requests must be tables [[requests]], found "one"'),
        ("\nrequests = ['one']", '2: requests must be tables [[requests]], found ["one"]'),
        ("[[requests]]\n[[requests]]\npath = '/'", "1: requests[0].path must be a path such as"),
        (f"{REQUEST}path2 = '/'", "3: requests[0].path2 is unknown: expected one of path, method, body, headers"),
        (f"{WRITE}status = 'ok'", '7: requests[1].status must be a number from 100 to 599, found "ok"'),
        (f"{WRITE}status = 600", "7: requests[1].status must be a number from 100 to 599, found 600"),
        (f"{WRITE}status = 99", "7: requests[1].status must be a number from 100 to 599, found 99"),
        (f"{WRITE}status = true", "7: requests[1].status must be a number from 100 to 599, found true"),
        (f"{WRITE}status = 200.5", "7: requests[1].status must be a number from 100 to 599, found 200.5"),
        ("[[requests]]\npath = 'orders'", "2: requests[0].path must be a path such as"),
        ("[[requests]]\npath = '/a b'", '2: requests[0].path must be a path such as "/orders?limit=5", found "/a b"'),
        (f"{REQUEST}method = 'get'", f'3: requests[0].method must be one of {METHODS}, found "get"'),
        (f"{REQUEST}credentials = 1", "3: requests[0].credentials must be true or false, found 1"),
        (f"{REQUEST}credentials = true", "3: requests[0].credentials is true, but there is no table [credentials]"),
        (f"{REQUEST}headers = {{ A = 1 }}", "3: requests[0].headers.A must be ASCII text of one line, found 1"),
        (f"{REQUEST}[requests.headers]\n\n'A B' = '1'", "5: requests[0].headers.A B must have a name that matches"),
        (f"{REQUEST}body = {{ a = 1 }}", '3: requests[0].body must be text, found {"a": 1}'),
        (COUNTED, '7: requests[1].counted must be the NAME of a table [counts.NAME], found "orders"'),
        (
            COUNTED.replace("${id}", "id") + "[counts.orders]\ncommand = 'exec'",
            "7: requests[1].counted requires ${id} in the path, a header or the body",
        ),
        (
            WRITE.replace("path = '/'", "path = '/a'\nmethod = 'POST'", 1),
            "1: requests must include a GET or HEAD that is not counted",
        ),
        (f"{COUNTED}[counts.orders]", "8: counts.orders must have either a command or a request"),
        (
            f"{COUNTED}[counts.orders]\ncommand = 'x'\nrequest = {{ path = '/' }}",
            "8: counts.orders must have either a command or a request",
        ),
        (f"{COUNTED}[counts.orders]\ncommand = 'x'\nwait = -1", "10: counts.orders.wait must be a number from 0"),
        (f"{COUNTED}[counts.orders]\ncommand = 'x'\nfield = 'a'", "10: counts.orders.field is unknown"),
        (
            f"{COUNTED}[counts.orders]\nrequest = {{ path = '/', status = 200 }}",
            "9: counts.orders.request.status is unknown: expected one of path, method, body, headers, credentials",
        ),
        ("[counts.orders]\ncommand = 'x'", '1: counts.orders is not used: no request has counted = "orders"'),
        ("[counts]\norders = 'x'", '2: counts.orders must be a table, found "x"'),
        ("counts = 1", "1: counts must be a table, found 1"),
        ("[settings]\nA = '1'\nB = 2", "3: settings.B must be text of one line, found 2"),
        ("settings = { A-B = '1' }", "1: settings.A-B must have a name that matches"),
        ("settings = { A = '''\na\nb''' }", '1: settings.A must be text of one line, found "a\\nb"'),
        ("\nprepare = 'exec'", '2: prepare must be a list of texts, found "exec"'),
        ("prepare = [1]", "1: prepare must be a list of texts, found [1]"),
        ("[credentials]", "1: credentials.headers must be a table of headers, found nothing"),
        (
            "[credentials]\nheaders = { A = '${token}' }",
            f"2: credentials.headers.A has the unknown placeholder ${{token}}: expected {PLACEHOLDERS}",
        ),
        (
            "[credentials]\nheaders = { A = '' }\nrequest = { path = '/login' }",
            "1: credentials.token must be the name of a field of the JSON response, found nothing",
        ),
        (
            "[credentials]\nheaders = {}\ntoken = 'a'\nrequest = { path = '/', body = '${token}' }",
            "4: credentials.request.body has the unknown placeholder ${token}",
        ),
        (
            "[credentials]\nheaders = {}\ntoken = 'a'\n[credentials.request]\npath = '/'\nstatus = 200",
            "6: credentials.request.status is unknown: expected one of path, method, body, headers",
        ),
        (
            f"{REQUEST}body = '''\n[x]\npath = ${{id}} ${{ID}}'''\n",
            "3: requests[0].body has the unknown placeholder ${ID}: expected ${id}, ${first_commit}, or a setting",
        ),
        ("[[requests]]\npath = '/${API_TOKEN}/${}'", "2: requests[0].path has the unknown placeholder ${}"),
        ("[credentials]\nheaders = {}\nb = 1", "3: credentials.b is unknown: expected one of request, headers"),
        (
            "[[invariants]]\nname = 'a'\ncommand = 'b'\nexpected = ''\nc = 1",
            "5: invariants[0].c is unknown: expected one of expected, name, command",
        ),
        (
            "[change]\nfile = 'shop/app.py'\nold = 'one'\nnew = 'b'\npath = '/'\ntext = 'b'\nc = 1",
            "7: change.c is unknown: expected one of path, file, old, new, text",
        ),
        ("[[invariants]]\nname = 'a'\ncommand = 'b'", "1: invariants[0].expected must be the text that the command"),
        (
            "[change]\nfile = 'a.py'\nold = 'a'\nnew = 'b'\npath = '/'\ntext = 'b'",
            '2: change.file must be the name of a file, found "a.py"',
        ),
        (
            "[change]\nfile = 'shop/app.py'\nold = 'three'\nnew = 'b'\npath = '/'\ntext = 'b'",
            "3: change.old must occur once in shop/app.py, found 2 occurrences",
        ),
        ("[change]\nfile = 'shop/app.py'\nold = 'one'\nnew = 'b'\npath = '/'", "1: change.text must be text, found"),
        ("websocket = '/ws'", '1: websocket must be a table, found "/ws"'),
        (WEBSOCKET, "1: websocket.receive must be text, found nothing"),
        (f"{WEBSOCKET}receive = ''", '4: websocket.receive must be text, found ""'),
        (f"{WEBSOCKET}receive = 1", "4: websocket.receive must be text, found 1"),
        (
            f"{WEBSOCKET}receive = 'b'".replace("/ws", "ws://host/ws"),
            '2: websocket.path must be a path such as "/ws", found "ws://host/ws"',
        ),
        (f"{WEBSOCKET}receive = 'b'\nc = 1", "5: websocket.c is unknown: expected one of path, send, receive"),
        (
            f"{WEBSOCKET}receive = '${{id}}'",
            f"4: websocket.receive has the unknown placeholder ${{id}}: expected {PLACEHOLDERS}",
        ),
        (f"[[requests]]\npath = '{'x' * 100}'", f'path such as "/orders?limit=5", found "{"x" * 59}...'),
    ],
)
def test_problem_is_one_line_with_its_place(folder, text, problem):
    [found] = problems(folder, text)
    assert found.startswith("rehearsal.toml:")
    assert problem in found


def test_all_problems_are_reported(folder):
    assert problems(folder, SHOP.replace("202", "'ok'").replace("wait", "waits").replace('"PUT"', '"put"')) == [
        'rehearsal.toml:21: requests[1].status must be a number from 100 to 599, found "ok"',
        f'rehearsal.toml:35: requests[2].method must be one of {METHODS}, found "put"',
        "rehearsal.toml:29: counts.orders.waits is unknown: expected one of request, field, command, wait",
    ]


def test_file_with_another_encoding_is_rejected(folder):
    (folder / "rehearsal.toml").write_bytes('# "é"'.encode("latin-1"))
    with pytest.raises(InvalidFile, match=r"^rehearsal\.toml:1: not UTF-8: "):
        read(folder, "/")


def test_lines_of_keys_in_dotted_and_nested_tables():
    lines = locate_keys(
        'a.b = 1\n# c = 1\n[d."e f"]\ng = """\nh = 1\n"""\ni = 1\n[[j.k]]\n[[j.k]]\nl = 1\n[j.k.m]\nn = 1'
    )
    assert lines == {
        (): 1,
        ("a", "b"): 1,
        ("d", "e f"): 3,
        ("d", "e f", "g"): 4,
        ("d", "e f", "i"): 7,
        ("j", "k", 0): 8,
        ("j", "k", 1): 9,
        ("j", "k", 1, "l"): 10,
        ("j", "k", 1, "m"): 11,
        ("j", "k", 1, "m", "n"): 12,
    }


def test_placeholders_are_filled_except_the_id():
    assert fill("/${A}/${id}/${B}${A}", {"A": "${B}", "B": ""}) == "/${B}/${id}/${B}"
    with pytest.raises(ValueError, match=r"^\$\{C\} in rehearsal\.toml has no value"):
        fill("${C}", {"A": "1"})
