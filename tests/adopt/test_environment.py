"""Which settings the code reads, and whether they are required."""

import pytest

from scripts.adopt import code
from scripts.adopt.environment import find_settings
from scripts.adopt.repository import Repository


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import os\nA = os.environ['A']", {"A": True}),
        ("import os\nA = os.environ.get('A')", {"A": False}),
        ("import os\nA = os.environ['A']\nB = os.environ.get('A')", {"A": False}),
        ("import os\nA = os.getenv('A', 'x')", {"A": False}),
        ("from os import environ, getenv\nA = environ['A']\nB = getenv('B')", {"A": True, "B": False}),
        ("import os\nif 'A' in os.environ:\n    start(os.environ['A'])", {"A": False}),
        ("import os\nif 'A' in os.environ:\n    start(os.environ['B'])", {"A": False, "B": False}),
        ("import os\ndef flag(name, default):\n    return os.getenv(name, default)\nA = flag('A', '')", {"A": False}),
        ("import os\ndef need(name):\n    return os.environ[name]\nA = need('A')", {"A": True}),
        (
            "from pydantic_settings import BaseSettings\n"
            "class Base(BaseSettings):\n    pass\nclass S(Base):\n    key: str",
            {"KEY": True},
        ),
        ("import os\nos.environ['A'] = '1'", {}),
        ("import os\nos.environ['PATH']", {}),
        ("import os\nos.environ[name]", {}),
        ("from decouple import config\nA = config('A')\nB = config('B', default=1, cast=int)", {"A": True, "B": False}),
        (
            "import environ\nenv = environ.Env()\nenv.db()\nenv('A')\nenv.bool('B', default=False)",
            {"A": True, "B": False, "DATABASE_URL": True},
        ),
        ("from environs import Env\nenv = Env()\nA = env.str('A')\nB = env.int('B', 3)", {"A": True, "B": False}),
        ("from shop.settings.base import env\nA = env('A')", {"A": True}),
        ("import dj_database_url\nD = dj_database_url.config()", {"DATABASE_URL": True}),
        ("import dj_database_url\nD = dj_database_url.config(default='sqlite://')", {"DATABASE_URL": False}),
        (
            "from pydantic_settings import BaseSettings\n"
            "class S(BaseSettings):\n    a_url: str\n    b: int = 3\n    c: str | None",
            {"A_URL": True, "B": False, "C": True},
        ),
        (
            "from pydantic_settings import BaseSettings, SettingsConfigDict\nclass S(BaseSettings):\n"
            "    model_config = SettingsConfigDict(env_prefix='SHOP_')\n    key: str",
            {"SHOP_KEY": True},
        ),
        (
            "from pydantic import BaseSettings, Field\n"
            "class S(BaseSettings):\n    a: str = Field(..., env='A_KEY')\n    b: str = Field('x')",
            {"A_KEY": True, "B": False},
        ),
        (
            "from pydantic_settings import BaseSettings as B\nclass Base(B):\n    class Config:\n"
            "        env_prefix = 'SHOP_'\nclass S(Base):\n    key: str",
            {"SHOP_KEY": True},
        ),
        (
            "from typing import Annotated\nfrom pydantic import BaseModel, Field, AliasChoices\n"
            "from pydantic_settings import BaseSettings\nclass Db(BaseModel):\n    host: str\nclass S(BaseSettings):\n"
            "    a: Annotated[str, Field(validation_alias='MY_A')]\n    db: Db\n"
            "    b: str = Field(validation_alias=AliasChoices('SHOP_B', 'B'))\n    c: Annotated[int, 'doc'] = 3",
            {"MY_A": True, "SHOP_B": True, "C": False, "DB": True},
        ),
        (
            "from enum import Enum\nfrom typing import Annotated\nfrom pydantic import BaseModel, Field\n"
            "from pydantic_settings import BaseSettings\nclass Db(BaseModel):\n    url: str\n    pool: int = 3\n"
            "class Stage(str, Enum):\n    a = 'a'\nclass S(BaseSettings):\n"
            "    stage: Stage\n    db: Db\n"
            "    token: Annotated[str, StringConstraints(min_length=1)]\n"
            "    z: Annotated[str, Field(validation_alias='Y')] = 'd'\n"
            "    class Config:\n        env_prefix = 'SHOP_'\n        env_nested_delimiter = '__'",
            {"SHOP_STAGE": True, "SHOP_DB__URL": True, "SHOP_DB__POOL": False, "SHOP_TOKEN": True, "Y": False},
        ),
        ("from pydantic_settings import BaseSettings\nclass A(BaseSettings, A):\n    a: str", {"A": True}),
        ("class S:\n    a: str", {}),
        ("import environ\nenv = environ.Env(A=(bool, False), B=int)\nenv('A')\nenv('B')", {"A": False, "B": True}),
        ("from environs import Env\nenv: Env = Env()\nA = env.str('A')", {"A": True}),
        ("from environs import env\nA = env.str('A')", {"A": True}),
        ("from env_config import env\nA = env('A')", {"A": True}),
        ("from decouple import AutoConfig\nconfig = AutoConfig()\nA = config('A')", {"A": True}),
        ("def application(environ, start):\n    return environ.get('HTTP_HOST')", {}),
    ],
)
def test_settings(make_project, text, expected):
    modules = code.parse(Repository(make_project({"app.py": text}))).modules
    assert {setting.name: setting.is_required for setting in find_settings(modules)} == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("from decouple import config\nA = config('A', cast=int)", "int"),
        ("import environ\nenv = environ.Env(A=(bool, False))\nenv('A')", "bool"),
        ("import os\nA = int(os.environ['A'])", "int"),
        ("import os\nA = os.environ['A']", ""),
    ],
)
def test_the_kind_of_a_setting(make_project, text, kind):
    modules = code.parse(Repository(make_project({"app.py": text}))).modules
    assert [setting.kind for setting in find_settings(modules)] == [kind]
