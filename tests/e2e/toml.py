"""Writes a nested dict as TOML: tables, arrays of tables, strings, numbers, lists."""

import json


def to_toml(tree: dict, path: tuple[str, ...] = ()) -> str:
    plain, tables = [], []
    for key, value in tree.items():
        here = (*path, key)
        if isinstance(value, dict):
            tables.append(f"\n[{_name(here)}]\n{to_toml(value, here)}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            tables += [f"\n[[{_name(here)}]]\n{to_toml(item, here)}" for item in value]
        else:
            plain.append(f"{_quoted(key)} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(plain + tables)


def _name(path: tuple[str, ...]) -> str:
    return ".".join(map(_quoted, path))


def _quoted(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").isalnum() else json.dumps(key, ensure_ascii=False)
