"""Write llms.txt beside the built pages: one line for each page, with its address and its first sentence.

The format is that of llmstxt.org, for programs that read documentation.
"""

from pathlib import Path

from docutils import nodes

SUMMARY = (
    "Inverse problems solved by generative adversarial networks and by a fit with a learned score, on one laptop or "
    "many MPI ranks, from a notebook."
)
SECTIONS = {"": "Start", "howto": "How-to", "explanation": "Explanation", "generated/notebooks": "Tutorials"}
OTHER = "Reference"


def write(app, error):
    """Write the file when a build of HTML pages has finished."""
    if error or app.builder.name not in ("html", "dirhtml"):
        return
    sections = {name: [] for name in (*SECTIONS.values(), OTHER)}
    for name in sorted(app.env.found_docs):
        title, folder = app.env.titles[name].astext(), name.rpartition("/")[0]
        line = f"- [{title}]({app.builder.get_target_uri(name)})"
        text = _first_sentence(app.env.get_and_resolve_doctree(name, app.builder))
        sections[SECTIONS.get(folder, OTHER)].append(f"{line}: {text}" if text else line)
    parts = [f"# {app.config.project}", f"> {SUMMARY}"]
    parts += [f"## {name}\n\n" + "\n".join(lines) for name, lines in sections.items() if lines]
    Path(app.outdir, "llms.txt").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _first_sentence(tree):
    places = nodes.section | nodes.document  # and no cells of tables
    paragraph = next((one for one in tree.findall(nodes.paragraph) if isinstance(one.parent, places)), None)
    return " ".join(paragraph.astext().split()).partition(". ")[0].rstrip(".:") if paragraph else ""
