"""A parser of 2,000 log lines finishes nearly all of them at once, and the last result never comes."""

from __future__ import annotations

from staging import run

import zray as ray

LINES = 2000


@ray.remote
def parse(line: str) -> list[str]:
    fields, rest = [], line
    while rest:
        if rest[0] == '"':
            field, closed, rest = rest[1:].partition('"')
            if not closed:
                rest = f'"{field}'  # more of it may come
                continue
        else:
            field, _, rest = rest.partition(" ")
        fields.append(field)
        rest = rest.lstrip()
    return fields


def line_of(number: int) -> str:
    if number == 1234:
        return 'GET "/index.html'
    return f'GET "/page{number}" 200'


def main() -> None:
    ray.init(num_cpus=2)
    refs = [parse.remote(line_of(number)) for number in range(LINES)]
    done = 0
    while refs:
        ready, refs = ray.wait(refs, num_returns=min(100, len(refs)), timeout=2)
        done += len(ready)
        print(f"{done} of {LINES} lines", flush=True)


if __name__ == "__main__":
    run(main, __doc__)
