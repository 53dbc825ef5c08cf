"""The report in a real browser: no error, every section, hostile texts inert, wide and narrow, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launch.report import write_report
from tests.integration.browser import Browser, missing
from tests.unit.recipe_runs import BROKEN, HELD, made_up, write_recipe
from tests.unit.report_runs import HOSTILE, with_settings, write_run

pytestmark = [pytest.mark.integration, pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")]
TEXT = "return document.querySelector('main').innerText;"
SECTIONS = "return [...document.querySelectorAll('main > section')].map((s) => s.id);"


@pytest.fixture(scope="session", autouse=True)
def _ray_cluster() -> None:
    """Instead of the other integration tests' cluster: a page needs none."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as found:
        yield found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("runs") / "hostile", texts=HOSTILE * 4, steps=30)
    (folder / "claims.json").write_text(
        '[{"claim": "<b>it</b> helps", "left": null, "right": null, '
        '"difference": 0.2, "stderr": 0.01, "z": 3, "at_least": 0, "holds": false}]'
    )
    (folder / "provenance.json").write_text(
        '{"name": "<i>zero</i>", "kind": "GRPO", "seed": 1, "chain": [{"name": "cold"}]}'
    )
    return write_report([folder])  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_run(folder / name, seed=seed) for name, seed in (("one", 1), ("other", 2))]
    with_settings(runs[1], clip_high=0.28, steps=12)
    return write_report(runs)


@pytest.fixture(scope="module")
def staged(tmp_path_factory) -> Path:
    return write_report([write_recipe(made_up(tmp_path_factory.mktemp("runs") / "staged"))])


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory) -> Path:
    return write_report([write_recipe(made_up(tmp_path_factory.mktemp("runs") / "unfinished"), done=3)])


def test_every_section_is_there_and_the_console_is_empty(browser, hostile):
    browser.open(hostile)
    assert browser.run(SECTIONS) == [
        "results", "claims", "curves", "time", "dead", "evaluation", "compute", "rollouts", "settings", "provenance",
    ]  # fmt: skip
    assert browser.run("return document.querySelectorAll('#curves .plot path.line').length;") > 20
    assert browser.run("return performance.getEntriesByType('resource').map((r) => r.name);") == []
    assert browser.console() == []


def test_the_test_of_the_console_sees_an_error(browser, tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<script>undefinedFunction()</script>")
    browser.open(page)
    assert any("undefinedFunction" in line for line in browser.console())


def test_hostile_rollouts_are_shown_and_do_nothing(browser, hostile):
    browser.open(hostile)
    seen = browser.run("""
        const on = document.querySelector('#rollouts button[aria-label="Next step"]');
        let text = '';
        for (let i = 0; i < 40; i++) {
          text += document.querySelector('#rollouts').innerText;
          on.click();
        }
        return text;
    """)
    for text in ("</script><script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 2'>", "@@DATA@@"):
        assert text in seen
    for mark in ("RLO", "U+0000", "U+001B", "עברית"):
        assert mark in seen
    assert browser.run(
        "return [window.hacked, document.querySelectorAll('main img, main script, main b b').length];"
    ) == [None, 0]
    assert browser.console() == []
    browser.run(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.hacked = 9'}))"
    )
    assert browser.run("return window.hacked;") is None  # the policy stops even a script that got in
    assert any("Content Security Policy" in line for line in browser.console())


def test_rollouts_can_be_picked_by_verdict_by_group_and_by_words(browser, hostile):
    browser.open(hostile)
    count = "return document.querySelectorAll('#rollouts .sample').length;"

    def choose(label: str, value: str) -> None:
        browser.run(f"""
            const label = [...document.querySelectorAll('#rollouts .filters label')].find((l) => l.innerText.startsWith('{label}'));
            const box = label.querySelector('select, input');
            box.value = '{value}';
            box.dispatchEvent(new Event(box.tagName === 'SELECT' ? 'change' : 'input'));
        """)

    assert browser.run(count) == 16
    choose("Groups", "dead")
    assert browser.run(count) == 4
    assert browser.run("return document.querySelector('#rollouts .tag').innerText;") == "dead: equal rewards"
    choose("Verdict", "accuracy: correct")
    assert browser.run(count) == 0
    choose("Verdict", "accuracy: wrong")
    assert browser.run(count) == 4
    choose("Groups", "")
    choose("Verdict", "")
    choose("Find", "What is 2 + 0")
    assert browser.run(count) == 4
    choose("Find", "")
    coloured = "return new Set([...document.querySelectorAll('#rollouts .written span')].map((s) => s.className)).size;"
    assert browser.run(coloured) > 6  # the sampler's probabilities fall from 1 to below 0.01
    choose("Colour", "")
    assert browser.run(coloured) <= 1


def test_pointing_at_a_chart_shows_that_step_in_all_of_them(browser, hostile):
    browser.open(hostile)
    shown = browser.run("""
        const plots = [...document.querySelectorAll('#curves .plot')];
        const box = plots[0].getBoundingClientRect();
        const x = box.left + 42 + (10 / 30) * (box.width - 50);
        plots[0].dispatchEvent(new PointerEvent('pointermove', {clientX: x, clientY: box.top + 9}));
        return plots.slice(0, 4).map((p) => p.closest('figure').querySelector('.legend').innerText);
    """)
    assert all("step 10" in text for text in shown)
    own = "const p = [...document.querySelectorAll('#curves figure')].find((f) => f.querySelector('h4').innerText === 'my/own');"
    browser.run("document.querySelector('#curves details').open = true;")
    by_key = browser.run(own + """
        const plot = p.querySelector('.plot');
        for (let i = 0; i < 8; i++) plot.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
        return [p.querySelector('.legend').innerText, document.querySelector('[aria-live]').innerText];
    """)  # fmt: skip
    assert by_key == ["7\nstep 7", "Step 7: my/own 7"]


def test_the_smoothing_slider_smooths(browser, hostile):
    browser.open(hostile)
    script = """
        const slider = document.querySelector('#curves input[type=range]');
        slider.value = %d;
        slider.dispatchEvent(new Event('input'));
        return [document.querySelector('#curves .plot path.line:not(.raw)').getAttribute('d'),
                document.querySelectorAll('#curves .raw').length, document.querySelector('#curves output').innerText];
    """
    rough, smooth = browser.run(script % 0), browser.run(script % 3)
    assert (rough[1:], smooth[2]) == ([0, "off"], "mean of 7 points")
    assert smooth[1] > 20
    assert smooth[0] != rough[0]


@pytest.mark.parametrize("width", [390, 768, 1440])
@pytest.mark.parametrize("name", ["hostile", "pair", "staged", "unfinished"])
def test_nothing_is_wider_than_the_window(browser, request, name, width):
    browser.open(request.getfixturevalue(name), width=width)
    browser.run("document.querySelectorAll('details').forEach((d) => { d.open = true; });")
    assert browser.run("return document.documentElement.scrollWidth;") <= width


def test_dark_follows_the_system_and_the_button(browser, hostile):
    ground = "return getComputedStyle(document.body).backgroundColor;"
    browser.open(hostile, dark=True)
    dark = browser.run(ground)
    browser.open(hostile, dark=False)
    light = browser.run(ground)
    assert dark != light
    browser.run("document.querySelector('nav button').click();")
    assert browser.run(ground) == dark


def test_settings_are_found_by_words(browser, hostile):
    browser.open(hostile)
    rows = browser.run("""
        const box = document.querySelector('#settings input');
        box.value = 'clip_high';
        box.dispatchEvent(new Event('input'));
        return [...document.querySelectorAll('#settings tbody tr')].filter((r) => !r.hidden).map((r) => r.cells[0].innerText);
    """)
    assert rows == ["grpo.clip_high"]


def test_two_runs_share_their_charts_and_show_what_differs(browser, pair):
    browser.open(pair)
    assert (
        browser.run("return document.querySelectorAll('#curves .grid figure')[0].querySelectorAll('path.line').length;")
        == 4
    )
    text = browser.run("return document.querySelector('#settings').innerText;")
    assert "What differs" in text
    assert "grpo.clip_high" in text.split("All settings")[0]
    assert browser.run("return [...document.querySelectorAll('.head h2')].map((h) => h.innerText);") == ["one", "other"]
    assert browser.console() == []


def test_a_recipes_page_marks_the_claim_that_did_not_hold_and_draws_every_stage(browser, staged):
    browser.open(staged)
    assert browser.run(SECTIONS) == [
        "claims", "chain", "results", "compute", "stage-cold", "stage-zero", "stage-picks", "stage-mixed", "stage-last",
        "provenance",
    ]  # fmt: skip
    rows = browser.run("return [...document.querySelectorAll('#claims tbody tr')].map((r) => r.innerText);")
    assert HELD in rows[0]
    assert "✓ held" in rows[0]
    assert BROKEN in rows[1]
    assert "✗ did not hold" in rows[1]
    assert "wanted more than 10 points, by 3 standard errors" in rows[1]
    assert "25.0" in rows[1]
    assert "50.0" in rows[1]
    assert "1 of 2\nclaims held" in browser.run("return document.querySelector('.headline').innerText;")
    assert browser.run("return document.querySelectorAll('#chain .arcs .arc').length;") == 7  # claims' own are left out
    assert browser.run("return document.querySelectorAll('#results tbody tr:not(.sub)').length;") == 4
    assert browser.run("return document.querySelectorAll('#stage-zero > .grid .plot path.line').length;") > 5
    assert "3 of 12 samples" in browser.run("return document.querySelector('#stage-picks').innerText;")
    assert browser.run("return performance.getEntriesByType('resource').map((r) => r.name);") == []
    assert browser.console() == []


def test_a_recipes_page_shows_what_has_not_run(browser, unfinished):
    browser.open(unfinished)
    states = browser.run("return [...document.querySelectorAll('#chain .state')].map((s) => s.innerText);")
    assert states == ["done"] * 3 + ["begun"] + ["not yet run"] * 4
    assert "not tested yet" in browser.run("return document.querySelector('#claims').innerText;")
    assert browser.console() == []


def test_pointing_at_a_stages_chart_leaves_the_other_stages_alone(browser, staged):
    browser.open(staged)
    shown = browser.run("""
        const legends = (id) => [...document.querySelectorAll(`#${id} > .grid .legend`)].map((l) => l.innerText);
        const plot = document.querySelector('#stage-cold .plot');
        plot.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
        return [legends('stage-cold'), legends('stage-last')];
    """)
    assert all("step 0" in text for text in shown[0])
    assert not any("step" in text for text in shown[1])
