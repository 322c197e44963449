import hmac

from flask import Blueprint, abort, current_app, jsonify, request
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.exceptions import HTTPException

from orders.extensions import db
from orders.models import Order

bp = Blueprint('orders', __name__)

MAX_LIMIT = 100


@bp.app_errorhandler(HTTPException)
def http_error(e):
    return jsonify(error=e.description), e.code


@bp.get('/')
def index():
    return jsonify(name='orders', description='Order API')


@bp.get('/ping')
def ping():
    try:
        db.session.execute(text('SELECT 1'))
    except SQLAlchemyError:
        current_app.logger.exception('The database is unavailable')
        return jsonify(status='unavailable'), 503
    return jsonify(status='ok')


@bp.get('/orders')
def list_orders():
    limit = request.args.get('limit', default=20, type=int)
    if not 1 <= limit <= MAX_LIMIT:
        abort(400, 'limit must be between 1 and %d' % MAX_LIMIT)
    query = select(Order).order_by(Order.id.desc()).limit(limit)
    return jsonify(orders=[o.to_dict() for o in db.session.scalars(query)])


@bp.post('/orders')
def create_order():
    check_api_key()
    data = request.get_json()
    reference = data.get('reference') if isinstance(data, dict) else None
    if not isinstance(reference, str) or not 1 <= len(reference) <= 200:
        abort(400, 'reference must be a string of 1 to 200 characters')
    order = Order(reference=reference)
    db.session.add(order)
    db.session.commit()
    return jsonify(order.to_dict()), 201


@bp.get('/orders/<int:order_id>')
def get_order(order_id):
    return jsonify(db.get_or_404(Order, order_id, description='no such order').to_dict())


def check_api_key():
    key = request.headers.get('X-Api-Key', '')
    if not hmac.compare_digest(key.encode(), current_app.config['API_KEY'].encode()):
        abort(401, 'X-Api-Key is missing or wrong')
