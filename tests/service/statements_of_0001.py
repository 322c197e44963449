"""The SQL statements that the code of revision 0001 executes, recorded on both databases.

Fixed times replace the recorded ones.
"""

from datetime import UTC, datetime

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
TEXT = "2026-01-02 03:04:05.678901"

RELEASES = "SELECT releases.id, releases.tag, releases.recorded_at \nFROM releases "
NOTES = "SELECT notes.id, notes.release_id, notes.text, notes.created_at \nFROM notes \nWHERE "

STATEMENTS = {
    "sqlite": [
        ("SELECT alembic_version.version_num \nFROM alembic_version", ()),
        ("INSERT INTO releases (tag, recorded_at) VALUES (?, ?)", ("a", TEXT)),
        (f"{RELEASES}ORDER BY releases.id DESC\n LIMIT ? OFFSET ?", (21, 0)),
        (f"{RELEASES}\nWHERE releases.id < ? ORDER BY releases.id DESC\n LIMIT ? OFFSET ?", (5, 21, 0)),
        (f"{RELEASES}\nWHERE releases.tag = ?", ("a",)),
        ("INSERT INTO notes (release_id, text, created_at) VALUES (?, ?, ?)", (1, "x", TEXT)),
        ("INSERT INTO notes (release_id, text, created_at) VALUES (?, ?, ?)", (1, "x", TEXT)),
        (f"{NOTES}notes.release_id = ? ORDER BY notes.id DESC\n LIMIT ? OFFSET ?", (1, 21, 0)),
        (f"{NOTES}notes.release_id = ? AND notes.id < ? ORDER BY notes.id DESC\n LIMIT ? OFFSET ?", (1, 9, 21, 0)),
    ],
    "postgresql": [
        ("SELECT alembic_version.version_num \nFROM alembic_version", {}),
        (
            "INSERT INTO releases (tag, recorded_at) VALUES "
            "(%(tag)s::VARCHAR, %(recorded_at)s::TIMESTAMP WITH TIME ZONE) RETURNING releases.id",
            {"tag": "a", "recorded_at": NOW},
        ),
        (f"{RELEASES}ORDER BY releases.id DESC \n LIMIT %(param_1)s::INTEGER", {"param_1": 21}),
        (
            f"{RELEASES}\nWHERE releases.id < %(id_1)s::BIGINT ORDER BY releases.id DESC \n LIMIT %(param_1)s::INTEGER",
            {"id_1": 5, "param_1": 21},
        ),
        (f"{RELEASES}\nWHERE releases.tag = %(tag_1)s::VARCHAR", {"tag_1": "a"}),
        *[
            (
                "INSERT INTO notes (release_id, text, created_at) VALUES (%(release_id)s::BIGINT, "
                "%(text)s::VARCHAR, %(created_at)s::TIMESTAMP WITH TIME ZONE) RETURNING notes.id",
                {"release_id": 1, "text": "x", "created_at": NOW},
            )
        ]
        * 2,
        (
            f"{NOTES}notes.release_id = %(release_id_1)s::BIGINT ORDER BY notes.id DESC \n LIMIT %(param_1)s::INTEGER",
            {"release_id_1": 1, "param_1": 21},
        ),
        (
            f"{NOTES}notes.release_id = %(release_id_1)s::BIGINT AND notes.id < %(id_1)s::BIGINT "
            "ORDER BY notes.id DESC \n LIMIT %(param_1)s::INTEGER",
            {"release_id_1": 1, "id_1": 9, "param_1": 21},
        ),
    ],
}
