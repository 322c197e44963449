import pytest

from orders import create_app
from orders.extensions import db


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv('DATABASE_URL', 'sqlite://')
    monkeypatch.setenv('API_KEY', 'test-key')
    monkeypatch.delenv('SENTRY_DSN', raising=False)


@pytest.fixture
def app(environment):
    app = create_app(TESTING=True)
    with app.app_context():
        db.create_all()
        yield app
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def client(app):
    return app.test_client()
