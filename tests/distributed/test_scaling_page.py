import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
RESULTS = json.loads((ROOT / "results" / "distributed.json").read_text(encoding="utf-8"))


def test_the_numbers_of_the_page_are_those_of_the_results():
    lines = [
        f"| {r['how']} | {r['method']} | {r['processes']} | {r['weights']:,} | {r['layers']} | {r['step_bytes']:,} | "
        f"{r['update_bytes_beyond_a_step']:,} | {r['update_calls_beyond_a_step']} |"
        for r in RESULTS["rows"]
    ]
    lines += [
        f"{RESULTS['large'][kind]['calls']:,} | {RESULTS['large'][kind]['bytes']:,} |" for kind in ("network", "layer")
    ]
    lines += [f"| {row['with_update_bytes_per_weight']:g} |" for row in RESULTS["memory"]]
    assert [line for line in lines if line not in PAGE] == []


def test_under_ddp_no_update_sent_anything():
    extra = {row["update_bytes_beyond_a_step"] for row in RESULTS["rows"] if row["how"] == "DDP"}
    assert extra == {0}
