"""Self-play: actors play tic-tac-toe with tree search, a value table learns from the games, and guides the next search.

The shape is that of game programs which learn by playing themselves: ``Player`` actors search (UCT: Kocsis and
Szepesvari, 2006), one async ``Evaluator`` answers positions of all players in batches, and the driver trains between
rounds.  Each game has its own seed, and an answer does not depend on the batch that it came in, so a run repeats
exactly, with any number of players.

    python examples/self_play.py --players 2 --rounds 3 --games 6
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
from typing import NamedTuple

import zray as ray

LINES = ((0, 1, 2), (3, 4, 5), (6, 7, 8), (0, 3, 6), (1, 4, 7), (2, 5, 8), (0, 4, 8), (2, 4, 6))
EXPLORATION = 1.4
BATCH = 8


class Played(NamedTuple):
    """Wins of X, draws and wins of O in each round; the positions with a value, and positions evaluated."""

    rounds: list[tuple[int, int, int]]
    positions: int
    evaluated: int


def winner(board: str) -> str:
    """"X", "O", "-" for a draw, "" while the game goes on."""
    for a, b, c in LINES:
        if board[a] != "." and board[a] == board[b] == board[c]:
            return board[a]
    return "" if "." in board else "-"


def to_move(board: str) -> str:
    return "X" if board.count("X") == board.count("O") else "O"


def moves(board: str) -> list[int]:
    return [square for square, piece in enumerate(board) if piece == "."]


def play(board: str, square: int) -> str:
    return board[:square] + to_move(board) + board[square + 1:]


@ray.remote
class Evaluator:
    """Values of positions for X, from -1 to 1, learned from finished games; positions are answered in batches."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[int, int]] = {}
        self.waiting: list[tuple[str, asyncio.Future]] = []
        self.evaluated = 0

    async def value(self, board: str) -> float:
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append((board, answer))
        if len(self.waiting) == 1:
            asyncio.get_running_loop().call_soon(self.answer)
        return await answer

    def answer(self) -> None:
        """Answer everything that has come since, ``BATCH`` positions at a time."""
        batch, self.waiting = self.waiting[:BATCH], self.waiting[BATCH:]
        if self.waiting:
            asyncio.get_running_loop().call_soon(self.answer)
        for board, answer in batch:
            total, count = self.sums.get(board, (0, 0))
            answer.set_result(total / count if count else 0.0)
        self.evaluated += len(batch)

    async def learn(self, games: list[tuple[list[str], int]]) -> int:
        """Add finished games: their positions, and 1, 0 or -1 for X.  Returns how many positions have a value."""
        for boards, result in games:
            for board in boards:
                total, count = self.sums.get(board, (0, 0))
                self.sums[board] = (total + result, count + 1)
        return len(self.sums)

    async def count(self) -> int:
        return self.evaluated


class Node:
    """A position of the search tree; ``total`` is from the view of the side that moved into it."""

    def __init__(self, board: str):
        self.board = board
        self.children: dict[int, Node] = {}
        self.visits, self.total = 0, 0.0

    def best(self, rng: random.Random) -> Node:
        def bound(child: Node) -> float:
            if not child.visits:
                return math.inf
            return child.total / child.visits + EXPLORATION * math.sqrt(math.log(self.visits) / child.visits)

        children = list(self.children.values())
        rng.shuffle(children)
        return max(children, key=bound)


@ray.remote
class Player:
    def __init__(self, evaluator, searches: int):
        self.evaluator, self.searches = evaluator, searches

    def value(self, board: str) -> float:
        """For X: the result of a finished game, or what the evaluator has learned."""
        end = winner(board)
        return {"X": 1.0, "O": -1.0, "-": 0.0}[end] if end else ray.get(self.evaluator.value.remote(board))

    def search(self, board: str, rng: random.Random) -> int:
        root = Node(board)
        for _ in range(self.searches):
            path = [root]
            while path[-1].children:
                path.append(path[-1].best(rng))
            leaf = path[-1]
            if not winner(leaf.board):
                leaf.children = {square: Node(play(leaf.board, square)) for square in moves(leaf.board)}
            value = self.value(leaf.board)
            for node in path:
                node.visits += 1
                node.total += -value if to_move(node.board) == "X" else value
        return max(root.children, key=lambda square: (root.children[square].visits, -square))

    def play_game(self, seed: int) -> tuple[list[str], int]:
        """The positions of a game, and its result for X.  The first move is random, so that games differ."""
        rng = random.Random(seed)
        board = play("." * 9, rng.randrange(9))
        boards = [board]
        while not winner(board):
            board = play(board, self.search(board, rng))
            boards.append(board)
        return boards, {"X": 1, "O": -1, "-": 0}[winner(board)]


def main(players: int = 2, rounds: int = 3, games: int = 6, searches: int = 30) -> Played:
    """``rounds`` rounds of ``games`` games each; every move is searched ``searches`` times."""
    evaluator = Evaluator.remote()
    pool = [Player.remote(evaluator, searches) for _ in range(players)]
    counts, positions = [], 0
    for number in range(rounds):
        seeds = range(number * games, (number + 1) * games)
        finished = ray.get([pool[seed % players].play_game.remote(seed) for seed in seeds])
        positions = ray.get(evaluator.learn.remote(finished))
        results = [result for _, result in finished]
        counts.append((results.count(1), results.count(0), results.count(-1)))
    return Played(counts, positions, ray.get(evaluator.count.remote()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--players", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--games", type=int, default=6)
    parser.add_argument("--searches", type=int, default=30)
    result = main(**vars(parser.parse_args()))
    for number, (wins, draws, losses) in enumerate(result.rounds, start=1):
        print(f"round {number}: X wins {wins}, draws {draws}, O wins {losses}")
    print(f"{result.positions} positions have a value, {result.evaluated:,} were asked for")
