"""Settings: the deployed keys, the environment over the file, what is refused and how it is said."""

import json
import os
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet
from pydantic import ValidationError

from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.settings import CloudSettings, Settings, is_key, is_loopback, settings_from

DEFAULTS = Path(__file__).parents[1] / "configs" / "default.yaml"

SPECIFICATION = """
cloud:
  enabled: false
  api_url: "https://api.sentinel-fleet.com"
  api_key: "your_api_key"
  vehicle_id: "vehicle_001"
  fleet_id: "fleet_alpha"
  sync_interval: 300  # seconds
  upload_scenarios: true
"""

DEPLOYED: dict[str, tuple[Any, Any]] = {
    "enabled": (True, True),
    "api_url": ("https://fleet.example.com/api/", "https://fleet.example.com/api"),
    "vehicle_id": ("truck-7", "truck-7"),
    "fleet_id": ("north", "north"),
    "sync_interval": (120, 120.0),
    "upload_scenarios": (False, False),
    "timeout": (30, 30.0),
    "max_retries": (3, 3),
    "rate_limit": (10, 10.0),
    "model_check_interval": (86_400, 86_400.0),
    "connectivity_check_interval": (30, 30.0),
    "auto_install_models": (True, True),
    "compression_quality": (23, 23),
    "upload_trips": (False, False),
    "sync_profiles": (False, False),
    "trip_queue_file": ("data/trip_queue.json", Path("data/trip_queue.json")),
    "scenarios_dir": ("/srv/scenarios", Path("/srv/scenarios")),
    "profiles_dir": ("profiles", Path("profiles")),
    "models_dir": ("models", Path("models")),
    "state_dir": ("state", Path("state")),
    "api_key_file": ("/run/secrets/key", Path("/run/secrets/key")),
    "pseudonym_key_file": ("/run/secrets/pseudonym", Path("/run/secrets/pseudonym")),
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SENTINEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "vehicle.yaml"


def load(config: Path, text: str) -> CloudSettings:
    config.write_text(text, encoding="utf-8")
    return Settings.load(config).cloud


def refusal(config: Path, text: str) -> str:
    """The message that a file is refused with."""
    with pytest.raises(ConfigurationError) as caught:
        load(config, text)
    return str(caught.value)


class TestDeployedFiles:
    def test_the_specifications_block_is_read(self, config: Path) -> None:
        cloud = load(config, SPECIFICATION)
        assert not cloud.enabled
        assert cloud.sync_interval == 300.0
        assert cloud.api_key.get_secret_value() == "your_api_key"

    @pytest.mark.parametrize("key", DEPLOYED)
    def test_each_key_is_read(self, config: Path, key: str) -> None:
        written, read = DEPLOYED[key]
        block = {"api_key": "k", key: written}
        assert getattr(load(config, yaml.safe_dump({"cloud": block})), key) == read

    def test_other_blocks_are_not_ours_to_reject(self, config: Path) -> None:
        cloud = load(config, "camera: {fps: 30}\nmodels: [1, 2]\ncloud: {vehicle_id: truck-7}\n? 5\n: six\n")
        assert cloud.vehicle_id == "truck-7"

    @pytest.mark.parametrize("text", ["", "# nothing\n", "camera: {}\n", "cloud:\n", "cloud: {}\n"])
    def test_a_file_that_says_nothing_means_the_defaults(self, config: Path, text: str) -> None:
        assert load(config, text) == CloudSettings()

    def test_no_file_means_the_defaults_which_send_nothing(self) -> None:
        assert Settings.load().cloud == CloudSettings()
        assert not CloudSettings().enabled

    def test_the_older_name_of_sync_interval(self, config: Path) -> None:
        assert load(config, "cloud: {trip_upload_interval: 600}").sync_interval == 600.0
        assert load(config, "cloud: {trip_upload_interval: 600, sync_interval: 60}").sync_interval == 60.0

    def test_paths_stay_relative_to_the_working_directory(self, config: Path) -> None:
        assert not load(config, "cloud: {state_dir: here}").state_dir.is_absolute()


class TestDefaultYaml:
    BLOCK: dict[str, Any] = yaml.safe_load(DEFAULTS.read_text(encoding="utf-8"))["cloud"]

    def test_holds_every_key(self) -> None:
        assert set(self.BLOCK) == set(CloudSettings.model_fields)

    def test_holds_the_defaults(self) -> None:
        written = CloudSettings.model_validate(self.BLOCK)
        assert written.model_copy(update={"api_key": CloudSettings().api_key}) == CloudSettings()

    def test_comments_every_key(self) -> None:
        lines = DEFAULTS.read_text(encoding="utf-8").splitlines()
        for key in self.BLOCK:
            at = next(number for number, line in enumerate(lines) if line.startswith(f"  {key}:"))
            while lines[at - 1].startswith("  ") and not lines[at - 1].strip().startswith("#"):
                at -= 1  # keys that share a comment stand below it together
            assert lines[at - 1].strip().startswith("#"), key


class TestUnknownKeys:
    @pytest.mark.parametrize(
        ("key", "nearest"),
        [
            ("api_ky", "api_key"),
            ("sync_intervall", "sync_interval"),
            ("trip_upload_intervall", "trip_upload_interval"),
            ("ratelimit", "rate_limit"),
            ("upload-trips", "upload_trips"),
            ("API_URL", "api_url"),
        ],
    )
    def test_name_the_nearest_known_one(self, config: Path, key: str, nearest: str) -> None:
        message = refusal(config, yaml.safe_dump({"cloud": {key: 1}}))
        said = f"{config} cannot be used: line 2: cloud.{key}: unknown key; the nearest known one is `{nearest}`"
        assert message == said

    def test_all_are_named_at_once(self, config: Path) -> None:
        message = refusal(config, "cloud: {one: 1, timeout: -1, two: 2}")
        assert "cloud.one" in message
        assert "cloud.two" in message
        assert "cloud.timeout" in message

    def test_in_the_environment_too(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENTINEL_CLOUD__RATE_LIMITT", "5")
        assert "cloud.rate_limitt: unknown key; the nearest known one is `rate_limit`" in refusal(config, "")

    @pytest.mark.parametrize("key", ["5", "null", "true", "[1, 2]", "1.5"])
    def test_that_are_no_texts(self, config: Path, key: str) -> None:
        assert str(config) in refusal(config, f"cloud: {{? {key} : 1}}")

    @pytest.mark.parametrize(
        ("block", "said"),
        [
            ("models: {soruce: api}", "cloud.models.soruce: unknown key; the nearest known one is `source`"),
            ("upload_window: [{begn: '22:00'}]", "cloud.upload_window.0.begn: unknown key; the nearest known one is"),
            ("data_budget: {any: {dya: 1}}", "cloud.data_budget.any.dya: unknown key; the nearest known one is `day`"),
            ("data_budget: {celular: {}}", "cloud.data_budget.celular: unknown key; the nearest known one is `cell"),
            ("data_budget: {x: {}}", "cloud.data_budget.x: unknown key; known here are `wifi`, `cellular`, `ethern"),
            ("data_budget: {day: 10MB}", "cloud.data_budget.day: unknown key; it belongs below wifi, cellular, ethern"),
            ("source: api", "cloud.source: unknown key; there is `cloud.models.source`"),
            ("models: {model_deltas: true}", "cloud.models.model_deltas: unknown key; there is `cloud.model_deltas`"),
        ],
    )
    def test_that_are_nested_are_named_with_those_of_their_own_block(self, config: Path, block: str, said: str) -> None:
        message = refusal(config, f"cloud:\n  {block}\n")
        assert message.startswith(f"{config} cannot be used: line 2: {said}")
        assert ";" not in message.partition(said)[2], "each key is named once"


class TestWhatIsSaidOfAValue:
    @pytest.mark.parametrize(
        ("block", "found", "allowed"),
        [
            ("data_budget: {any: {day: 10MB}}", "a number with a unit", "a whole number of bytes, at least 0, or null"),
            (
                "sync_interval: 5 min",
                "a number with a unit",
                "a number of seconds, more than 0 and at most 2592000",
            ),
            ("trip_upload_interval: 5min", "a number with a unit", "a number of seconds, more than 0 and"),
            (
                "disk_reserve: 10GB",
                "a number with a unit",
                "a whole number of bytes, at least 0, or a share in per",
            ),
            ("data_budget: 5", "a number", 'a block of budgets by class of link, such as {"cellular": {"day": 5000'),
            ("drop_audio: {interior: perhaps}", "a text", "true or false"),
            ("drop_audio: 5", "a number", "true, false or a list of cameras, such as"),
            ("upload_window: {begin: '22:00'}", "a block of keys", "a list of windows, such as"),
            ("upload_window: [{begin: '2200'}]", "a text of another form", "a time of day, such as"),
            ("network: mettered", "another word", "auto, metered or unmetered; did you mean metered?"),
            ("network: [auto]", "a list", "auto, metered or unmetered"),
            ("timeout: -1", "a number too small", "a number of seconds, more than 0 and at most 2592000, such as 30"),
            ("timeout: .nan", "nan, which is no number", "a number of seconds"),
            ("max_retries: 1.5", "a fraction", "a whole number, at least 0 and at most 20, such as 3"),
            ("enabled: ''", "an empty text", "true or false"),
            ("vehicle_id: ''", "an empty text", "a text of 1 to 128 ASCII characters, no spaces, such as"),
            ("ca_file: true", "true", "a path or null"),
            ("profile_keys: {a: b}", "a block of keys", "a list (each a text)"),
        ],
    )
    def test_is_what_was_found_and_what_is_allowed(self, config: Path, block: str, found: str, allowed: str) -> None:
        assert f": found {found}; must be {allowed}" in refusal(config, f"cloud:\n  {block}\n")

    @pytest.mark.parametrize("key", sorted(CloudSettings.model_fields))
    def test_null_where_a_value_is_needed_may_be_left_out(self, config: Path, key: str) -> None:
        text = f"cloud:\n  {key}:\n"
        if CloudSettings.model_fields[key].default is None:
            assert getattr(load(config, text), key) is None
        else:
            said = refusal(config, text)
            assert f"line 2: cloud.{key}: found nothing (null); must be " in said
            assert said.endswith("; leave the key out for its default")

    def test_a_key_that_was_set_by_its_older_name_is_found_there(self, config: Path) -> None:
        assert "line 3: cloud.sync_interval: " in refusal(config, "cloud:\n  enabled: no\n  trip_upload_interval: x\n")

    def test_the_host_is_told_the_same(self) -> None:
        with pytest.raises(ConfigurationError, match=r"cannot be built: cloud.timeout: found a text; must be a number"):
            settings_from(None, {"timeout": "hush"})


class TestEnvironment:
    def test_overrides_the_file(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENTINEL_CLOUD__API_KEY", "from-environment")
        monkeypatch.setenv("SENTINEL_CLOUD__ENABLED", "true")
        monkeypatch.setenv("sentinel_cloud__rate_limit", "2.5")
        cloud = load(config, "cloud: {api_key: from-file, rate_limit: 5, timeout: 7}")
        assert cloud.api_key.get_secret_value() == "from-environment"
        assert cloud.enabled
        assert cloud.rate_limit == 2.5
        assert cloud.timeout == 7.0

    def test_is_overridden_by_the_caller(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENTINEL_CLOUD__VEHICLE_ID", "from-environment")
        config.write_text("cloud: {vehicle_id: from-file}")
        assert Settings.load(config).cloud.vehicle_id == "from-environment"
        assert Settings.load(config, vehicle_id="from-caller").cloud.vehicle_id == "from-caller"

    def test_an_empty_variable_is_none(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENTINEL_CLOUD__CA_FILE", "")
        monkeypatch.setenv("SENTINEL_CLOUD__API_KEY", "")
        cloud = load(config, "cloud: {api_key: from-file}")
        assert cloud.ca_file is None
        assert cloud.api_key.get_secret_value() == "from-file"

    def test_the_whole_block_may_be_json(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENTINEL_CLOUD", json.dumps({"vehicle_id": "truck-7"}))
        assert Settings.load().cloud.vehicle_id == "truck-7"

    def test_broken_json_is_told_without_repeating_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENTINEL_CLOUD", '{"api_key": "hush-hush')
        with pytest.raises(ConfigurationError) as caught:
            Settings.load()
        assert "hush-hush" not in "".join(traceback.format_exception(caught.value))

    def test_a_bad_value_is_named_and_not_repeated(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SENTINEL_CLOUD__TIMEOUT", "hush-hush")
        message = refusal(config, "")
        assert "cloud.timeout" in message
        assert "hush-hush" not in message


class TestHttps:
    @pytest.mark.parametrize(
        "url",
        [
            "https://api.example.com",
            "https://api.example.com:8443/v1",
            "https://192.168.0.1",
            "http://localhost",
            "http://localhost:8000",
            "http://127.0.0.1:8000",
            "http://127.8.9.1",
            "http://[::1]:8000",
        ],
    )
    def test_is_required_but_for_a_loopback_address(self, config: Path, url: str) -> None:
        assert load(config, yaml.safe_dump({"cloud": {"api_url": url}})).api_url == url

    @pytest.mark.parametrize(
        "url",
        [
            "http://api.example.com",
            "http://192.168.0.1",
            "http://0.0.0.0",
            "http://localhost.example.com",
            "http://backend.localhost",
            "http://127.0.0.1.example.com",
            "http://127.1",
            "http://2130706433",
            "ftp://localhost",
            "localhost:8000",
            "//localhost",
            "https://",
            "https:///x",
            "",
            "https://h:99999",
            "https://h:port",
            "https://user:pw@h",
            "https://user@h",
            "https://h?x=1",
            "https://h#x",
            "http://localhost\\@evil.example",
            "https://a b.example",
            "http://local\thost",
        ],
    )
    def test_and_nothing_else_will_do(self, config: Path, url: str) -> None:
        message = refusal(config, yaml.safe_dump({"cloud": {"api_url": url}}))
        assert "cloud.api_url" in message
        assert "pw" not in message

    @pytest.mark.parametrize(
        ("host", "loopback"),
        [
            ("localhost", True),
            ("127.0.0.1", True),
            ("::1", True),
            ("", False),
            ("10.0.0.1", False),
            ("x.localhost", False),
        ],
    )
    def test_loopback_is_told_without_asking_a_name_server(self, host: str, loopback: bool) -> None:
        assert is_loopback(host) is loopback

    def test_a_proxy_elsewhere_may_not_read_the_key(self, config: Path) -> None:
        block = {"api_url": "http://127.0.0.1:8000", "proxy": "http://user:hush@proxy.example.com:3128"}
        message = refusal(config, yaml.safe_dump({"cloud": block}))
        assert "https api_url" in message
        assert "hush" not in message
        assert load(config, yaml.safe_dump({"cloud": block | {"api_url": "https://h"}})).proxy is not None
        assert load(config, yaml.safe_dump({"cloud": block | {"proxy": "http://127.0.0.1:3128"}})).proxy is not None


class TestSecrets:
    BLOCK = {"api_key": "hush-1", "pseudonym_key": "hush-2", "proxy": "http://u:hush-3@p"}  # noqa: RUF012

    def test_show_nowhere(self) -> None:
        settings = Settings(cloud=CloudSettings.model_validate(self.BLOCK))
        for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
            assert "hush" not in shown

    def test_show_in_no_error(self, config: Path) -> None:
        for bad in (
            {"api_key": ["hush-4"]},
            {"api_key": "hush 5"},
            {"pseudonym_key": {"hush": 6}},
            {"timeout": "hush-7"},
        ):
            with pytest.raises(ConfigurationError) as caught:
                load(config, yaml.safe_dump({"cloud": self.BLOCK | bad}))
            assert "hush" not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize("key", ["two words", "new\nline", "schlüssel", "tab\tbed", "\x7f"])
    def test_a_key_fits_into_a_header(self, config: Path, key: str) -> None:
        assert "cloud.api_key" in refusal(config, yaml.safe_dump({"cloud": {"api_key": key}}))
        assert not is_key(key)

    def test_white_space_around_a_key_is_an_editors(self, config: Path) -> None:
        assert load(config, 'cloud: {api_key: " the-key\\n"}').api_key.get_secret_value() == "the-key"

    def test_enabled_takes_a_credential(self, config: Path) -> None:
        assert "SENTINEL_CLOUD__API_KEY" in refusal(config, "cloud: {enabled: true}")
        assert load(config, "cloud: {enabled: true, api_key: k}").enabled
        assert load(config, "cloud: {enabled: true, api_key_file: /run/key}").enabled

    def test_an_empty_pseudonym_key_is_a_mistake(self, config: Path) -> None:
        assert "pseudonym_key" in refusal(config, 'cloud: {pseudonym_key: " "}')


class TestMutualTls:
    @pytest.mark.parametrize("alone", ["client_cert_file", "client_key_file"])
    def test_takes_both_files(self, config: Path, alone: str) -> None:
        assert "mutual TLS takes both" in refusal(config, f"cloud: {{{alone}: /etc/vehicle.pem}}")

    def test_is_set_with_both(self, config: Path) -> None:
        assert load(config, "cloud: {client_cert_file: a, client_key_file: b, ca_file: c}").ca_file == Path("c")


class TestValues:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            *(("timeout", value) for value in (0, -1, "soon", 1e9)),
            *(("sync_interval", value) for value in (0, -1, "soon", 1e9)),
            ("timeout", float("nan")),
            ("timeout", float("inf")),
            ("max_retries", -1),
            ("max_retries", 1.5),
            ("rate_limit", -0.1),
            ("rate_limit", float("nan")),
            ("max_in_flight", 0),
            ("outbox_max_bytes", 10),
            ("outbox_max_age", -1),
            ("compression_quality", 64),
            ("enabled", "perhaps"),
            ("vehicle_id", ""),
            ("vehicle_id", "two words"),
            ("vehicle_id", "line\n"),
            ("vehicle_id", "x" * 129),
            ("fleet_id", "flotte-é"),
            ("state_dir", 5),
        ],
    )  # fmt: skip
    def test_out_of_range_are_refused_by_name(self, config: Path, key: str, value: Any) -> None:
        assert f"cloud.{key}" in refusal(config, yaml.safe_dump({"cloud": {key: value}}))

    def test_are_frozen(self) -> None:
        with pytest.raises(ValidationError):
            CloudSettings().timeout = 5.0  # type: ignore[misc]


class TestBrokenFiles:
    def test_a_missing_one(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"cannot read the settings file .*none\.yaml: No such file"):
            Settings.load(tmp_path / "none.yaml")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot read"):
            Settings.load(tmp_path)

    def test_broken_yaml_names_the_line_and_not_its_text(self, config: Path) -> None:
        message = refusal(config, 'cloud:\n  api_key: "hush-hush\n  x: [')
        assert message.startswith(f"the settings file {config} is not YAML in line ")
        assert "hush" not in message

    @pytest.mark.parametrize("text", ["- a\n- b", "just words", "5", "cloud: 5", "cloud: [1]", "cloud: words"])
    def test_yaml_without_blocks(self, config: Path, text: str) -> None:
        assert "block" in refusal(config, text)

    def test_no_utf_8(self, config: Path) -> None:
        config.write_bytes(b"cloud: {vehicle_id: \xff}")
        with pytest.raises(ConfigurationError, match="not YAML"):
            Settings.load(config)

    def test_yaml_runs_no_code(self, config: Path) -> None:
        assert "not YAML" in refusal(config, "cloud: !!python/object/apply:os.system ['true']")


class TestWhereItComesFrom:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("cloud:\n  timeout: 1\nother: 1\ncloud:\n  timeout: 2\n", ("`cloud` is there twice, in lines 1 and 4",)),
            ("cloud:\n  timeout: 1\n  enabled: no\n  timeout: 3\n", ("`cloud.timeout` is there", "lines 2 and 4")),
            ("cloud:\n  models:\n    source: api\n    source: tuf\n", ("`cloud.models.source` is", "lines 3 and 4")),
            ("clud:\n  vehicle_id: a\n", ("no block `cloud:`, but `clud:` in line 1",)),
            ("x: 1\nCloud:\n  vehicle_id: a\n", ("no block `cloud:`, but `Cloud:` in line 2",)),
            ("cloud:\n  enabled: false\n  timout: 3\n", ("line 3: cloud.timout: unknown key", "`timeout`")),
            ("cloud:\n  timeout: -1\n", ("line 2: cloud.timeout: ",)),
            ("cloud:\n  models:\n    source: nowhere\n", ("line 3: cloud.models.source: ",)),
            ("cloud:\n  proxy: proxy.example.com:3128\n", ("line 2: cloud.proxy: ",)),
            ("cloud:\n  proxy: 'http://'\n", ("line 2: cloud.proxy: ",)),
            ("cloud:\n  api_url: 'https://a.example?'\n", ("line 2: cloud.api_url: ",)),
            ("cloud:\n  api_url: 'https://a.example#'\n", ("line 2: cloud.api_url: ",)),
        ],
    )
    def test_each_error_names_its_key_and_line(self, config: Path, text: str, said: tuple[str, ...]) -> None:
        message = refusal(config, text)
        assert all(words in message for words in said), message

    def test_all_errors_are_said_at_once(self, config: Path) -> None:
        said = refusal(config, "cloud:\n  timeout: -1\n  fleet_id: ''\n  rate_limit: x\n")
        assert all(f"line {line}: " in said for line in (2, 3, 4))

    def test_other_blocks_may_be_as_they_like(self, config: Path) -> None:
        cloud = load(config, "radio:\n  a: 1\n  a: 2\ncloud:\n  vehicle_id: truck\n")
        assert cloud.vehicle_id == "truck"

    @pytest.mark.parametrize(
        ("key", "text", "value"),
        [
            ("MODEL_TRUSTED_KEYS", "a,b", ("a", "b")),
            ("MODEL_TRUSTED_KEYS", '["a", "b"]', ("a", "b")),
            ("MODEL_REVOKED_KEYS", "a, b", ("a", "b")),
            ("PROFILE_LEGACY_VEHICLE_IDS", "v1,v2", ("v1", "v2")),
            ("PROFILE_KEYS_COMMAND", "pass show 'the key'", ("pass", "show", "the key")),
            ("MODEL_VALIDATOR_COMMAND", '["check", "--fast"]', ("check", "--fast")),
            ("MODELS__SOURCE", "api", None),
            ("TIMEOUT", "12", 12.0),
            ("ENABLED", "false", False),
            ("DROP_AUDIO", "interior,bev", {"interior": True, "bev": True}),
            ("DROP_AUDIO", "false", False),
            ("DATA_BUDGET", '{"any": {"day": 5}}', None),
        ],
    )
    def test_lists_have_commas_or_are_json(
        self, monkeypatch: pytest.MonkeyPatch, key: str, text: str, value: object
    ) -> None:
        monkeypatch.setenv(f"SENTINEL_CLOUD__{key}", text)
        cloud = Settings.load().cloud
        if value is not None:
            assert getattr(cloud, key.lower()) == value

    def test_fernet_keys_with_a_comma_between_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        keys = [Fernet.generate_key().decode() for _ in range(2)]
        monkeypatch.setenv("SENTINEL_CLOUD__PROFILE_KEYS", ",".join(keys))
        assert [key.get_secret_value() for key in Settings.load().cloud.profile_keys] == keys

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("SENTINEL_CLOUD__PROFILE_KEYS", "a,b"),
            ("SENTINEL_CLOUD__PROFILE_KEYS", '["a'),
            ("SENTINEL_CLOUD__TIMEOUT", "soon"),
            ("SENTINEL_CLOUD__MODELS__SOURCE", "nowhere"),
            ("SENTINEL_CLOUD__TIMOUT", "3"),
            ("SENTINEL_CLOUD", "[1]"),
        ],
    )
    def test_an_error_names_its_variable_and_no_value(
        self, monkeypatch: pytest.MonkeyPatch, name: str, text: str
    ) -> None:
        monkeypatch.setenv(name, text)
        with pytest.raises(ConfigurationError, match=name) as caught:
            Settings.load()
        assert text not in str(caught.value)

    def test_a_home_folder_is_expanded(self, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        cloud = load(config, "cloud:\n  state_dir: ~/state\n  api_key_file: ~/key\n")
        assert (cloud.state_dir, cloud.api_key_file) == (tmp_path / "state", tmp_path / "key")


class TestPseudonymKey:
    async def test_none(self) -> None:
        assert await CloudSettings().read_pseudonym_key() is None

    async def test_the_text(self) -> None:
        assert (
            await CloudSettings.model_validate({"pseudonym_key": " fleet-secret\n"}).read_pseudonym_key()
            == b"fleet-secret"
        )

    async def test_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "pseudonym"
        path.write_text("fleet-secret\n")
        settings = CloudSettings.model_validate({"pseudonym_key": "other", "pseudonym_key_file": path})
        assert await settings.read_pseudonym_key() == b"fleet-secret"

    @pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
    async def test_a_file_without_one_is_an_error(self, tmp_path: Path, content: bytes | None) -> None:
        path = tmp_path / "pseudonym"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="pseudonym key"):
            await CloudSettings(pseudonym_key_file=path).read_pseudonym_key()
