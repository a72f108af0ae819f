"""What axe-core says of a page: https://github.com/dequelabs/axe-core."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
AXE = ROOT / ".venv/judges/node_modules/axe-core/axe.min.js"
WIDTHS = (1440, 390)
# Colours on their way between two schemes are nobody's.
SETTLED = """() => Promise.allSettled(document.getAnimations()
  .filter((one) => one.effect.getComputedTiming().iterations !== Infinity)
  .map((one) => one.finished))"""
ASK = """(rules) => axe.run(document, {resultTypes: ["violations"], ...rules})
  .then(({violations}) => violations.flatMap(({id, nodes}) => nodes.map(
    (node) => `${id}: ${node.target}: ${node.html}: ${node.failureSummary}`)))"""
CONTRAST = {"runOnly": ["color-contrast", "link-in-text-block"]}


def judge(page):
    """Fail for whatever axe-core finds on the open page, wide and narrow, in both schemes.

    What has nothing to do with colours is the same in the dark.
    """
    before = page.viewport_size
    # By the debugger, which the policy of the page does not bind.
    page.evaluate(AXE.read_text())
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme, rules in (("light", {}), ("dark", CONTRAST)):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.evaluate(SETTLED)
            found = page.evaluate(ASK, rules)
            assert found == [], f"{page.url} at {width} px, {scheme}: " + "\n".join(
                found
            )
    page.set_viewport_size(before)
