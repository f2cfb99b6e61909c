"""From rounds of runs to figures: medians, ratios round by round, means over the works, the lines of acceptance, the plot."""

import math
import statistics

MODES = (("null", "#bbbbbb"), ("memtrace", "#2a7ae2"), ("heaptrack", "#e28a2a"), ("memray", "#7fb77e"), ("memray-native", "#4f9a4d"),
         ("memray-objects", "#2e6e2c"), ("tracemalloc", "#b05cc4"))


def geometric_mean(values):
    values = [v for v in values if v and v > 0]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def share(part, whole):
    """None where the whole is too small to say anything."""
    return part / whole if whole > 0.001 else None


def summarize(name, results, facts, runs):
    row = {"work": name, **facts, "modes": {}, "rounds": []}
    plain = results["plain"][:runs]
    for mode, rs in results.items():
        timed = rs[:runs]
        entry = {f: statistics.median(r[f] for r in timed) for f in ("wall", "settled", "cpu", "target_cpu")}
        entry.update(peak=rs[runs]["peak"], output_bytes=rs[runs]["output_bytes"], status=rs[runs]["status"])
        entry["added_peak"] = entry["peak"]["together"] - results["plain"][runs]["peak"]["together"]
        for figure in ("wall", "cpu", "target_cpu"):
            entry[f"{figure}_ratio"] = statistics.median(r[figure] / p[figure] for r, p in zip(timed, plain) if p[figure])
            entry[f"added_{figure}"] = statistics.median(r[figure] - p[figure] for r, p in zip(timed, plain))
        if facts.get("events"):
            entry["ns_per_event"] = entry["added_cpu"] / facts["events"] * 1e9
            entry["target_ns_per_event"] = entry["added_target_cpu"] / facts["events"] * 1e9
        row["modes"][mode] = entry
    for i in range(runs):
        row["rounds"].append({m: {f: rs[i][f] for f in ("wall", "settled", "cpu", "target_cpu")} for m, rs in results.items()})
    if "heaptrack" in results:
        against(row)
    return row


def against(row):
    """memtrace's costs as shares of heaptrack's, round by round."""
    m, h = row["modes"]["memtrace"], row["modes"]["heaptrack"]
    for figure in ("wall", "cpu", "target_cpu"):
        shares = [share(r["memtrace"][figure] - r["plain"][figure], r["heaptrack"][figure] - r["plain"][figure])
                  for r in row["rounds"]]
        shares = [s for s in shares if s is not None]
        if shares:
            row[f"added_{figure}_share"] = statistics.median(shares)
            row[f"added_{figure}_shares"] = shares
    row["peak_share"] = share(m["peak"]["together"], h["peak"]["together"])
    row["added_peak_share"] = share(m["added_peak"], h["added_peak"])
    row["output_share"] = share(m["output_bytes"], h["output_bytes"])


def mib(n):
    return f"{n / 1048576:.1f}"


def show(row):
    print(f"\n{row['work']}: {row['events'] or 0:,} events, {row['lost']} lost, {row['waits']} waits", end="")
    for figure, unit in (("cpu", "CPU"), ("wall", "wall time"), ("peak", "memory")):
        shares = row.get(f"added_{figure}_shares", [])
        if f"added_{figure}_share" in row and row[f"added_{figure}_share"] is not None:
            spread = f" ({min(shares):.2f} to {max(shares):.2f})" if len(shares) > 1 else ""
            print(f"\n  memtrace adds {row[f'added_{figure}_share']:.3f} of the {unit} that heaptrack adds{spread}", end="")
    print(f"\n  {'':15}{'wall s':>9}{'ratio':>7}{'CPU s':>9}{'ratio':>7}{'target s':>10}{'ratio':>7}{'ns/event':>10}{'target':>8}"
          f"{'peak MiB':>10}{'target':>9}{'tools':>8}{'output MiB':>12}")
    for mode, e in row["modes"].items():
        ns = [f"{e[k]:.0f}" if k in e and mode != "plain" else "" for k in ("ns_per_event", "target_ns_per_event")]
        print(f"  {mode:15}{e['wall']:9.3f}{e['wall_ratio']:7.2f}{e['cpu']:9.3f}{e['cpu_ratio']:7.2f}{e['target_cpu']:10.3f}"
              f"{e['target_cpu_ratio']:7.2f}{ns[0]:>10}{ns[1]:>8}{mib(e['peak']['together']):>10}{mib(e['peak']['target']):>9}"
              f"{mib(e['peak']['tools']):>8}{mib(e['output_bytes']):>12}" + (f"  status {e['status']}" if e["status"] else ""), flush=True)


def acceptance(rows, micro):
    """The figures of the task, as dictionaries of figure, measured, wanted; only those that were measured."""
    by_name, lines = {r["work"]: r for r in rows}, []

    def say(figure, measured, wanted, form="{:.3f}"):
        if measured is not None:
            lines.append({"figure": figure, "measured": measured if isinstance(measured, str) else form.format(measured),
                          "wanted": wanted, "value": measured})

    for figure, name, mean_wanted, worst_wanted in (
            ("added_cpu_share", "added CPU against heaptrack's", "at most 0.200", "at most 0.333"),
            ("added_wall_share", "added wall time against heaptrack's", "at most 0.167", None),
            ("peak_share", "peak memory against heaptrack's, all processes", "at most 0.333", None),
            ("added_peak_share", "added peak memory against heaptrack's", "at most 0.333", None)):
        known = {r["work"]: r[figure] for r in rows if r.get(figure) is not None}
        if known:
            # What is within the noise of nothing, or below it, counts as a thousandth.
            say(f"{name}, geometric mean", geometric_mean([max(v, 0.001) for v in known.values()]), mean_wanted)
            worst = max(known, key=known.get)
            say(f"{name}, worst work", f"{known[worst]:.3f} ({worst})", worst_wanted or mean_wanted)
    for name, wanted in (("sphinx", 1.05), ("cc1", 1.12), ("sqlite3", 1.3), ("sphinx-frames", 1.08), ("sphinx-objects", 1.35)):
        if name in by_name:
            say(f"{name}: wall time against plain", by_name[name]["modes"]["memtrace"]["wall_ratio"], f"at most {wanted}")
    for name, rival in (("sphinx-frames", "memray-native"), ("sphinx-objects", "memray-objects"), ("sphinx-objects", "tracemalloc")):
        modes = by_name.get(name, {}).get("modes", {})
        if rival in modes:
            say(f"{name}: wall time against {rival}'s", modes["memtrace"]["wall_ratio"] / modes[rival]["wall_ratio"], "below 1")
    if rows:
        say("events lost, all works", str(sum(r["lost"] for r in rows)), "0")
        say("waits of threads for the reader, all works", str(sum(r["waits"] for r in rows)), "0")
    if by_name.get("sphinx-malloc", {}).get("output_share"):
        say("sphinx-malloc: database against heaptrack's file", by_name["sphinx-malloc"]["output_share"], "at most 0.1")
    growth(by_name, say)
    for line in micro.get("acceptance", []):
        say(*line)
    return lines


def growth(by_name, say):
    long = [by_name.get(f"long-1e{i}") for i in (6, 7, 8)]
    if not all(long):
        return
    m = [r["modes"]["memtrace"] for r in long]
    say("an event at 10^8 against 10^6, the whole cost", m[2]["ns_per_event"] / m[0]["ns_per_event"], "0.9 to 1.1")
    steps = [(m[i + 1]["added_cpu"] - m[i]["added_cpu"]) / (long[i + 1]["events"] - long[i]["events"]) for i in (0, 1)]
    say("an event from 10^7 to 10^8 against 10^6 to 10^7 (start-up left out)", steps[1] / steps[0] if steps[0] > 0 else None, "0.9 to 1.1")
    say("database at 10^8 events against 10^6", m[2]["output_bytes"] / m[0]["output_bytes"], "about 1")
    say("peak of the reader at 10^8 events", mib(m[2]["peak"]["tools"]) + " MiB, " + mib(m[0]["peak"]["tools"]) + " MiB at 10^6",
        "bounded by live blocks: 1 in 1,024 stays")


def plot(rows, path):
    """CPU and wall time against plain, a group of bars a work: a plain SVG."""
    panels, width = (("cpu_ratio", "CPU time against plain, all processes"), ("wall_ratio", "wall time against plain")), 620
    pitch = 14 * max(len(r["modes"]) for r in rows) + 10  # plain has no bar
    height = len(rows) * pitch + 50
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width * len(panels) + 20}" height="{height}" font-family="sans-serif" '
           'font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    for p, (figure, title) in enumerate(panels):
        x = 10 + p * width
        scale = 400 / max(e[figure] for r in rows for e in r["modes"].values())
        out.append(f'<text x="{x}" y="20" font-size="14">{title} (medians)</text>')
        for i, row in enumerate(rows):
            y = 40 + i * pitch
            out.append(f'<text x="{x + 110}" y="{y + 24}" text-anchor="end">{row["work"]}</text>')
            for j, (mode, colour) in enumerate([m for m in MODES if m[0] in row["modes"]]):
                ratio = row["modes"][mode][figure]
                out.append(f'<rect x="{x + 120}" y="{y + j * 14}" width="{ratio * scale:.1f}" height="12" fill="{colour}"/>'
                           f'<text x="{x + 125 + ratio * scale:.1f}" y="{y + j * 14 + 10}" font-size="10">{mode} {ratio:.2f}</text>')
        one = x + 120 + scale
        out.append(f'<line x1="{one:.1f}" x2="{one:.1f}" y1="34" y2="{height - 10}" stroke="#888" stroke-dasharray="3 3"/>')
    with open(path, "w") as f:
        f.write("\n".join(out + ["</svg>\n"]))
