from datetime import datetime, timezone

from orders.extensions import db


def utcnow():
    return datetime.now(timezone.utc)


class Order(db.Model):
    __tablename__ = 'orders'

    id = db.Column(db.Integer, primary_key=True)
    # The customer's own reference: not unique, customers reuse them.
    reference = db.Column(db.String(200), nullable=False, index=True)
    created_at = db.Column(db.DateTime(timezone=True), nullable=False, default=utcnow)

    def to_dict(self):
        return {
            'id': self.id,
            'reference': self.reference,
            'created_at': self.created_at.isoformat(),
        }
