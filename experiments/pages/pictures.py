"""The section of test pictures with the file's answers, and of its confusions."""

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from experiments.pages.html import Node, section, table, tag


def pictures(answers: Mapping[str, Any], result: Mapping[str, Any]) -> Element:
    """Returns the section.

    Args:
      answers: content of answers.json.
      result: content of result.json.
    """
    wrong, examples = answers["wrong"], answers["examples"]
    children: list[Node] = [
        tag(
            "p",
            f"The answers of {result['accuracy']['file']} on {len(answers['pictures'])} of the "
            f"{examples} test pictures, of which {wrong} are answered wrong: first the wrong ones, "
            f"the surest first, then the right ones, the least sure first.",
        ),
        tag("ul", *map(_picture, answers["pictures"]), class_="pictures"),
    ]
    if answers["confusions"]:
        rows = [(one["class"], one["answered"], str(one["count"])) for one in answers["confusions"]]
        children.append(
            table(("class", "answered", "pictures"), rows, (0, 1), "Classes most often confused")
        )
    return section("pictures", "Test pictures", *children)


def _picture(one: Mapping[str, Any]) -> Element:
    right = one["class"] == one["answer"]
    sign, style = ("✓", "good") if right else ("✗", "bad")
    lines: list[Node] = [
        tag("span", f"{sign} {one['answer']}", class_=style),
        f", {one['probability']:.1%}",
    ]
    if not right:
        lines += [tag("br"), f"is {one['class']}"]
    return tag(
        "li",
        tag(
            "img",
            src=f"data:image/jpeg;base64,{one['jpeg']}",
            alt=f"test picture of {one['class']}",
        ),
        *lines,
    )
