"""What may be shown of addresses and what is a secret by its name, whatever passwords are made of.

Needs: nothing.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icu_ray.config.file import load_config
from icu_ray.config.shipped import find_config
from icu_ray.console.exit_codes import exit_code
from icu_ray.errors import MOST_CHARACTERS, UserError, explained, is_secret_name, without_secrets
from tests.support.fuzz_case import fuzz, places

SCHEMES = st.sampled_from(["http", "https", "postgresql", "mysql+pymysql", "s3", "memory", "simplecache::s3", "HTTP"])
HOSTS = st.sampled_from(["h", "mlflow.example.org:5000", "[::1]:80", "bucket/runs", "127.0.0.1/a%20b/c.json"])
PASSWORDS = st.text(
    st.sampled_from("ab1 \t'\"@/?#&=:;,%()[]{}<>\\é€\u2028\x00")
    | st.characters(exclude_characters="\n", exclude_categories=["Cs"]),
    min_size=1,
).filter(lambda text: "://" not in text)
AROUND = st.sampled_from(["", " ", "'", '"', "(", "tracking.uri=", "MLflow at ", "OSError: PUT "])
AFTER = st.sampled_from(["", " did not answer", "': refused", " and http://other/x is there", "\nme@host wrote it"])
SECRET_NAMES = (
    *("token", "access_token", "X-Amz-Security-Token", "key", "api_key", "apikey", "AWSAccessKeyId", "AccountKey"),
    *(
        "password",
        "passwd",
        "pwd",
        "PASS",
        "client_secret",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "sig",
        "sas",
        "auth",
    ),
)
PLAIN_NAMES = ("a", "limit", "design", "author", "compass", "pattern", "tokenizer", "version", "X-Amz-Expires")


@fuzz(300)
@given(SCHEMES, PASSWORDS, PASSWORDS, HOSTS, AROUND, AFTER)
def test_user_and_password_are_not_shown(
    scheme: str, user: str, password: str, host: str, before: str, after: str
) -> None:
    shown = f"{before}{scheme}://{host}{after}"
    assert without_secrets(shown) == shown
    for secret in (f"{user}:{password}", quote(f"{user}:{password}"), user):
        assert without_secrets(f"{before}{scheme}://{secret}@{host}{after}") == shown
    twice = f"{before}{scheme}://{user}:{password}@{host} then {scheme}://{password}@{host}{after}"
    assert without_secrets(twice) == f"{before}{scheme}://{host} then {scheme}://{host}{after}"


@fuzz(300)
@given(
    st.lists(st.sampled_from(PLAIN_NAMES)),
    st.sampled_from(SECRET_NAMES),
    st.text(st.sampled_from("ab1'\"/?#=:;%()[]{}<>\\é"), min_size=1),
    st.sampled_from("?#"),
    AFTER,
)
def test_keys_in_queries_and_fragments_are_not_shown(
    names: list[str], name: str, value: str, mark: str, after: str
) -> None:
    plain = "".join(f"{each}={n}&" for n, each in enumerate(names))
    shown = f"http://h/x{mark}{plain}{name}=...&z=1{after}"
    assert without_secrets(f"http://h/x{mark}{plain}{name}={value}&z=1{after}") == shown
    assert without_secrets(f"http://h/x{mark}{plain}{urlencode({name: value})}&z=1{after}") == shown


@pytest.mark.parametrize(
    "token",
    [
        *("hf_abcdefghijklmnopqrstuvwxyz", "ghp_0123456789abcdefghijklmnop", "sk-proj-0a1b2c3d4e5f6a7b8c9d"),
        *("AKIAIOSFODNN7EXAMPLE", "xoxb-1234567890-abcdef", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln"),
    ],
)
def test_tokens_of_known_form_are_not_shown(token: str) -> None:
    assert without_secrets(f"refused: '{token}' is none") == "refused: '...' is none"


def test_half_an_address_shows_no_half_of_a_secret() -> None:
    """A library's text is cut, and a password before its @ would be none any more."""
    address = "http://me:canary@host/x?token=canary"
    for room in range(len(address) + 2):
        with pytest.raises(UserError) as refused, explained("model m"):
            raise ValueError("x" * (MOST_CHARACTERS - room - 1) + " " + address)
        assert "cana" not in str(refused.value)


def test_names() -> None:
    variables = ("HF_TOKEN", "AWS_ACCESS_KEY_ID", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "DB_PASS", "SLACK_COOKIE")
    assert all(map(is_secret_name, (*SECRET_NAMES, *variables)))
    open_names = ("PATH", "PWD", "OLDPWD", "TOKENIZERS_PARALLELISM", "HOME", "CUDA_VISIBLE_DEVICES", "NCCL_DEBUG")
    assert not any(map(is_secret_name, (*PLAIN_NAMES, *open_names)))


@pytest.mark.parametrize("name", ["quickstart", "table1"])
def test_nothing_of_a_shipped_config_is_taken_for_a_secret(name: str) -> None:
    tree = load_config(find_config(name), []).model_dump(mode="json")
    for way in places(tree):
        value = tree
        for key in way:
            value = value[key]
        if isinstance(value, str):
            assert without_secrets(value) == value


def test_an_error_is_said_without_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        raise UserError("http://me:can't say@h/x?sig=canary: no such thing")

    assert exit_code("icu-ray", run) == 2
    assert capsys.readouterr().err == "icu-ray: http://h/x?sig=... no such thing\n"
