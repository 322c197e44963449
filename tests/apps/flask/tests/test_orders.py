import pytest
from sqlalchemy.exc import OperationalError

from orders import create_app
from orders.extensions import db

KEY = {'X-Api-Key': 'test-key'}


def create(client, reference):
    return client.post('/orders', json={'reference': reference}, headers=KEY)


def test_banner(client):
    assert client.get('/').json['name'] == 'orders'


def test_ping(client):
    assert client.get('/ping').status_code == 200


def test_ping_reports_an_unavailable_database(client, monkeypatch):
    def fail(*args, **kwargs):
        raise OperationalError('SELECT 1', {}, Exception('connection refused'))
    monkeypatch.setattr(db.session, 'execute', fail)
    assert client.get('/ping').status_code == 503


def test_create_and_get(client):
    response = create(client, 'A-1')
    assert response.status_code == 201
    order = client.get('/orders/%d' % response.json['id']).json
    assert order['reference'] == 'A-1'


def test_a_reference_may_repeat(client):
    assert create(client, 'A-1').json['id'] != create(client, 'A-1').json['id']


def test_list_is_newest_first(client):
    for reference in ['A-1', 'A-2', 'A-3']:
        create(client, reference)
    orders = client.get('/orders?limit=2').json['orders']
    assert [o['reference'] for o in orders] == ['A-3', 'A-2']


@pytest.mark.parametrize('limit', [0, 101])
def test_limit_has_bounds(client, limit):
    assert client.get('/orders?limit=%d' % limit).status_code == 400


@pytest.mark.parametrize('key', [None, 'wrong'])
def test_create_needs_the_key(client, key):
    headers = {'X-Api-Key': key} if key else {}
    assert client.post('/orders', json={'reference': 'A-1'}, headers=headers).status_code == 401


@pytest.mark.parametrize('body', [{}, [], {'reference': ''}, {'reference': 1}, {'reference': 'x' * 201}])
def test_create_needs_a_reference(client, body):
    assert client.post('/orders', json=body, headers=KEY).status_code == 400


def test_unknown_order(client):
    response = client.get('/orders/1')
    assert response.status_code == 404
    assert response.json == {'error': 'no such order'}


@pytest.mark.parametrize('name', ['DATABASE_URL', 'API_KEY'])
def test_required_settings(environment, monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(KeyError):
        create_app()


def test_sentry_dsn_must_not_be_empty(environment, monkeypatch):
    monkeypatch.setenv('SENTRY_DSN', '')
    with pytest.raises(RuntimeError):
        create_app()
