"""Settings of this host: file and environment, read for real, and refused as a whole when one is bad."""

from pathlib import Path

import pytest

from felix.config.load import load_file, load_local, load_settings
from felix.errors import DataError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "felix.cfg"
    path.write_text(text, encoding="utf-8")
    return path


def test_load_file_sections_are_one_and_names_in_any_case(tmp_path: Path) -> None:
    path = write(
        tmp_path, "[global]\nHEALTHPORT = 1\n# a comment\n[DEFAULT]\nhealthhost = 10%%\n[other]\nLogPrefix=p\n"
    )
    assert load_file(path).value_by_name == {"HEALTHPORT": "1", "healthhost": "10%%", "LogPrefix": "p"}


def test_load_settings_environment_wins_and_the_host_has_a_name(tmp_path: Path) -> None:
    path = write(tmp_path, "[global]\nHealthPort = 1\nHealthHost = a\n")
    resolved = load_settings(path, {"FELIX_HEALTHPORT": "2", "PATH": "/bin"})
    assert (resolved.settings.health_port, resolved.settings.health_host) == (2, "a")
    assert resolved.settings.felix_hostname
    assert resolved.origin_by_attribute["felix_hostname"].source == "system"


def test_load_settings_bad_values_are_all_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "[global]\nHealthPort = web\n")
    with pytest.raises(DataError) as raised:
        load_settings(path, {"FELIX_IPV6SUPPORT": "perhaps", "FELIX_ETCDCAFILE": str(tmp_path / "absent.pem")})
    text = str(raised.value)
    assert f"{path}: HealthPort: " in text
    assert "(seen: web)" in text
    assert "environment FELIX_IPV6SUPPORT: Ipv6Support: " in text
    assert "(seen: perhaps)" in text
    assert "EtcdCaFile" in text
    assert "absent.pem" in text


def test_load_file_that_was_asked_for_and_is_absent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_file(tmp_path / "absent.cfg")


@pytest.mark.parametrize("text", ["HealthPort = 1\n", "[global]\nA=1\nA=2\n", "[global\n"])
def test_load_file_that_is_no_ini_file_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=r"felix\.cfg is no INI file"):
        load_file(path)


def test_load_local_other_variables_are_not_ours(tmp_path: Path) -> None:
    source, _ = load_local(write(tmp_path, ""), {"FELIX_A": "1", "FELIX_": "2", "CALICO_B": "3"})
    assert source.value_by_name == {"FELIX_A": "1"}
