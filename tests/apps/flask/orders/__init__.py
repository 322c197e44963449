"""The order API."""

import os

import sentry_sdk
from flask import Flask

from orders.extensions import db, migrate


def create_app(**overrides):
    start_sentry()

    app = Flask(__name__)
    app.config['SQLALCHEMY_DATABASE_URI'] = os.environ['DATABASE_URL']
    app.config['SQLALCHEMY_ENGINE_OPTIONS'] = {'pool_pre_ping': True}
    app.config['API_KEY'] = os.environ['API_KEY']
    app.config.update(overrides)

    db.init_app(app)
    migrate.init_app(app, db)

    from orders.views import bp
    app.register_blueprint(bp)
    return app


def start_sentry():
    if 'SENTRY_DSN' in os.environ:
        dsn = os.environ['SENTRY_DSN']
        if not dsn.startswith(('http://', 'https://')):
            raise RuntimeError('SENTRY_DSN is set, but %r is not a URL' % dsn)
        sentry_sdk.init(dsn=dsn, send_default_pii=False)
