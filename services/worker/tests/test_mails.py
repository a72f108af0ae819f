"""Mails: each once, late if need be, encrypted on the way, without a stray header."""

import datetime as dt
import json
import ssl
import uuid
from email import message_from_bytes, policy

import pytest
from celery.exceptions import Retry
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import SecretStr

from flagon_chassis.testing import Peer, SmtpServer, free_port, hearing
from flagon_worker import tasks
from flagon_worker.clients import Auth, MailFolder, MailServer, mail_sender, post
from flagon_worker.domain import mails
from flagon_worker.domain.deliveries import NotYet
from flagon_worker.domain.mails import Sender, Undeliverable

LETTER = {
    "to": "ada@flagon.test",
    "language": "de",
    "subject": "Neues Passwort wählen",
    "text": "Öffnen: http://localhost/password/reset?code=SECRETCODE\n",
    "html": "<!doctype html><p>Öffnen</p>",
}
SENDER = Sender("Flagon", "no-reply@flagon.test", "shop.test")


@pytest.fixture
def smtp():
    """Starts mail servers."""
    started = []

    def start(**options):
        started.append(SmtpServer(**options))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A certificate for `localhost` that this process trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    both = tmp_path / "both.pem"
    alone = tmp_path / "certificate.pem"
    alone.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    both.write_bytes(
        alone.read_bytes()
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(alone))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    return context


def letter(**changes):
    return mails.message({**LETTER, **changes}, SENDER, uuid.uuid4())


def plain(server, seconds=2.0):
    return MailServer(f"smtp://localhost:{server.port}?tls=off", seconds=seconds)


class TestMailServer:
    def test_gets_the_mail_as_it_was_written(self, smtp):
        server, mail_id = smtp(), uuid.uuid4()

        plain(server).send(mails.message(LETTER, SENDER, mail_id))

        ((to, raw),) = server.received
        got = message_from_bytes(raw, policy=policy.default)
        assert to == got["To"] == "ada@flagon.test"
        assert got["From"] == "Flagon <no-reply@flagon.test>"
        assert got["Subject"] == "Neues Passwort wählen"
        assert got["Message-ID"] == f"<{mail_id}@shop.test>"
        assert got["Auto-Submitted"] == "auto-generated"
        assert got["Content-Language"] == "de"
        assert (
            got.get_body(("plain",)).get_content().replace("\r\n", "\n")
            == LETTER["text"]
        )
        assert "Öffnen" in got.get_body(("html",)).get_content()

    def test_is_spoken_to_encrypted(self, smtp, certificate):
        server = smtp(certificate=certificate, login=("auth", "p@ss word"))

        MailServer(
            f"smtp://auth:p%40ss%20word@localhost:{server.port}", seconds=2.0
        ).send(letter())

        assert server.encrypted == [True]

    def test_is_spoken_to_encrypted_from_the_start(self, smtp, certificate):
        server = smtp(certificate=certificate, implicit=True)

        MailServer(f"smtps://localhost:{server.port}", seconds=2.0).send(letter())

        assert server.encrypted == [True]

    def test_without_encryption_gets_nothing(self, smtp):
        server = smtp()

        with pytest.raises(NotYet):
            MailServer(f"smtp://localhost:{server.port}", seconds=2.0).send(letter())
        assert server.received == []

    def test_with_a_foreign_certificate_gets_nothing(
        self, smtp, certificate, monkeypatch
    ):
        monkeypatch.delenv("SSL_CERT_FILE")
        server = smtp(certificate=certificate)

        with pytest.raises(NotYet):
            MailServer(f"smtp://localhost:{server.port}", seconds=2.0).send(letter())
        assert server.received == []

    def test_that_refuses_the_login_makes_the_mail_wait(self, smtp, certificate):
        server = smtp(certificate=certificate, login=("auth", "right"))

        with pytest.raises(NotYet):
            MailServer(f"smtp://auth:wrong@localhost:{server.port}", seconds=2.0).send(
                letter()
            )
        assert server.received == []

    @pytest.mark.parametrize(
        ("replies", "outcome"),
        [
            ({"RCPT": "550 no such person"}, Undeliverable),
            ({"RCPT": "451 grey listed"}, NotYet),
            ({"MAIL": "552 too big"}, Undeliverable),
            ({"MAIL": "421 busy"}, NotYet),
            ({"END": "554 looks like spam"}, Undeliverable),
            ({"END": "452 disk full"}, NotYet),
            ({"EHLO": "500 what?", "HELO": "500 what?"}, NotYet),
        ],
    )
    def test_that_says_no_is_understood(self, smtp, replies, outcome):
        server = smtp()
        server.replies = replies

        with pytest.raises(outcome) as told:
            plain(server).send(letter())
        assert "ada@" not in str(told.value)

    @pytest.mark.parametrize("verb", ["EHLO", "MAIL", "DATA"])
    def test_that_hangs_up_makes_the_mail_wait(self, smtp, verb):
        server = smtp()
        server.dropped_at = verb

        with pytest.raises(NotYet):
            plain(server).send(letter())

    def test_that_is_not_there_makes_the_mail_wait(self):
        with pytest.raises(NotYet):
            MailServer(f"smtp://localhost:{free_port()}?tls=off", seconds=1.0).send(
                letter()
            )

    @pytest.mark.parametrize("bye", ["500 never", None])
    def test_that_says_good_bye_badly_has_the_mail_all_the_same(self, smtp, bye):
        server = smtp()
        if bye:
            server.replies = {"QUIT": bye}
        else:
            server.dropped_at = "QUIT"

        plain(server).send(letter())

        assert len(server.received) == 1


class TestMessage:
    @pytest.mark.parametrize(
        "changes",
        [
            {"to": "ada@flagon.test\r\nBcc: eve@evil.test"},
            {"to": "ada@flagon.test, eve@evil.test"},
            {"to": "ada@flagon.test\nBcc: eve@evil.test"},
            {"to": ""},
            {"to": "no address"},
            {"subject": "Hello\r\nBcc: eve@evil.test"},
            {"subject": "Hello\n\nNew body"},
        ],
    )
    def test_header_injection_is_impossible(self, changes):
        with pytest.raises(Undeliverable):
            letter(**changes)

    def test_lines_of_a_text_are_no_headers(self, smtp):
        server = smtp()
        text = "\r\n.\r\nMAIL FROM:<evil@evil.test>\r\nBcc: eve@evil.test\r\n"

        plain(server).send(letter(text=text))

        ((to, raw),) = server.received
        got = message_from_bytes(raw, policy=policy.default)
        assert to == "ada@flagon.test"
        assert got["Bcc"] is None
        assert "evil@evil.test" in got.get_body(("plain",)).get_content()


class FakeAuth:
    """Who gives a mail to one attempt at a time."""

    def __init__(self, composed=LETTER):
        self.composed = composed
        self.said = []
        self.failing = set()

    def compose_mail(self, mail_id, attempt):
        self.said.append(("compose", attempt))
        return self.composed

    def mail_ended(self, mail_id, outcome):
        self.said.append(outcome)
        if outcome in self.failing:
            raise NotYet("auth is away")


class FakePost:
    def __init__(self, failure=None):
        self.failure = failure
        self.sent = []

    def send(self, message):
        if self.failure:
            raise self.failure
        self.sent.append(message)


class TestDeliver:
    def test_sends_and_says_so(self):
        auth, letters = FakeAuth(), FakePost()

        assert mails.deliver(auth, letters, SENDER, uuid.uuid4()) == "sent"
        assert auth.said[-1] == "sent"

    def test_sends_nothing_that_is_over(self):
        auth, letters = FakeAuth(None), FakePost()

        assert mails.deliver(auth, letters, SENDER, uuid.uuid4()) == "over"
        assert letters.sent == []

    def test_every_attempt_has_a_name_of_its_own(self):
        auth = FakeAuth()
        mails.deliver(auth, FakePost(), SENDER, uuid.uuid4())
        mails.deliver(auth, FakePost(), SENDER, uuid.uuid4())

        first, second = (said[1] for said in auth.said if said[0] == "compose")
        assert first != second

    def test_gives_back_what_could_not_be_sent(self):
        auth = FakeAuth()

        with pytest.raises(NotYet):
            mails.deliver(auth, FakePost(NotYet("busy")), SENDER, uuid.uuid4())
        assert auth.said[-1] == "returned"

    def test_gives_up_what_will_never_be_sent(self):
        auth = FakeAuth()
        letters = FakePost(Undeliverable("550"))

        assert mails.deliver(auth, letters, SENDER, uuid.uuid4()) == "refused"
        assert auth.said[-1] == "refused"

    def test_a_crash_between_sending_and_saying_so_sends_the_same_mail_again(self):
        auth, letters, mail_id = FakeAuth(), FakePost(), uuid.uuid4()
        auth.failing = {"sent"}

        for _ in range(2):
            with pytest.raises(NotYet):
                mails.deliver(auth, letters, SENDER, mail_id)

        first, second = letters.sent
        assert first["Message-ID"] == second["Message-ID"] == f"<{mail_id}@shop.test>"


class AuthServer(Peer):
    """auth, as far as it knows of mails."""

    def __init__(self):
        self.status = 200
        self.calls = []
        super().__init__()

    def answer(self, method, path, headers, body):
        self.calls.append((path, body))
        ended = path.rsplit("/", 1)[-1] in {"sent", "returned", "refused"}
        return (204, None) if ended and self.status == 200 else (self.status, LETTER)


@pytest.fixture
def identity():
    found = AuthServer()
    yield found
    found.close()


@pytest.fixture
def task(app, settings, identity, monkeypatch, tmp_path):
    """Runs the task once."""

    def retry(*, countdown):
        raise Retry(when=countdown)

    monkeypatch.setattr(tasks.send_mail, "retry", retry)

    def run(**changes):
        changed = settings.model_copy(
            update={"auth_url": identity.url, "mail_dir": tmp_path / "mail", **changes}
        )
        app.extensions["flagon.settings"] = changed
        app.extensions["flagon.identity"] = Auth(changed)
        app.extensions["flagon.post"] = post(changed)
        with app.app_context():
            tasks.send_mail.run(mail_id=str(uuid.uuid4()), newer="ignored")

    yield run
    app.extensions["flagon.identity"].close()


class TestSendMail:
    def test_goes_to_a_file_where_there_is_no_server(
        self, app, task, tmp_path, identity
    ):
        task()

        (path,) = (tmp_path / "mail").glob("*.eml")
        assert message_from_bytes(path.read_bytes())["To"] == "ada@flagon.test"
        assert (tmp_path / "mail").stat().st_mode & 0o077 == 0
        assert identity.calls[-1][0].endswith("/sent")
        shown = app.test_cli_runner().invoke(args=["mails", "show"]).output
        assert "reset?code=SECRETCODE" in shown
        assert "ada@flagon.test" in shown

    def test_goes_to_the_server_of_the_settings(self, task, smtp, tmp_path):
        server = smtp()
        url = f"smtp://localhost:{server.port}?tls=off"

        task(smtp_url=SecretStr(url))

        assert len(server.received) == 1
        assert not (tmp_path / "mail").exists()

    @pytest.mark.parametrize("status", [401, 403, 409, 500, 503])
    def test_waits_while_auth_has_trouble(self, task, identity, status):
        identity.status = status

        with pytest.raises(Retry) as later:
            task()
        assert 0 < later.value.when <= 240

    def test_stops_when_auth_knows_nothing_of_it(self, task, identity, tmp_path):
        identity.status = 404

        task()

        assert not (tmp_path / "mail").exists()

    def test_waits_while_the_server_is_away(self, task, identity):
        url = f"smtp://localhost:{free_port()}?tls=off"

        with pytest.raises(Retry):
            task(smtp_url=SecretStr(url))
        assert identity.calls[-1][0].endswith("/returned")

    def test_links_appear_in_no_log(self, task):
        with hearing() as heard:
            task()

        logged = heard()
        assert "'event': 'mail'" in logged
        assert "SECRETCODE" not in logged


class TestMailFolder:
    def test_keeps_only_the_newest(self, tmp_path, monkeypatch):
        monkeypatch.setattr(mails, "KEPT_MAX", 3)
        for number in range(5):
            mails.keep(tmp_path, letter(subject=f"Number {number}"))

        found = [mail["Subject"] for mail in mails.kept(tmp_path, limit=10)]
        assert found == ["Number 2", "Number 3", "Number 4"]

    def test_finds_mails_by_address(self, tmp_path):
        mails.keep(tmp_path, letter(to="bob@flagon.test"))
        mails.keep(tmp_path, letter())

        found = list(mails.kept(tmp_path, to="BOB@flagon.test", limit=5))
        assert [str(mail["To"]) for mail in found] == ["bob@flagon.test"]
        assert len(list(mails.kept(tmp_path, limit=1))) == 1

    def test_that_cannot_be_written_makes_the_mail_wait(self, tmp_path):
        (tmp_path / "mail").write_text("a file")

        with pytest.raises(NotYet):
            MailFolder(tmp_path / "mail").send(letter())

    def test_command_prints_json_for_programs(self, app, task):
        task()

        shown = app.test_cli_runner().invoke(
            args=["mails", "show", "--json", "--to", "ada@flagon.test"]
        )

        assert json.loads(shown.output)["subject"] == LETTER["subject"]

    def test_is_used_where_there_is_no_server(self, settings):
        assert isinstance(post(settings), MailFolder)
        sender = mail_sender(settings)
        assert (sender.name, sender.address) == ("Flagon", "no-reply@flagon.test")
