"""Asks a study's settings, wave by wave: the same ones whatever the timing, and after a kill.

The settings of a wave are drawn together and kept in the ledger together. A sampler that learns draws a wave from
exactly the results of the waves that the plan names; what arrived earlier than that is not shown to it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from study.design.riders import outcome_of
from study.design.schema import CONFIRMATION, Outcome, Setting, host_of
from study.design.study import Study
from study.execute.finalists import finalists
from study.execute.gain import Gain
from study.execute.ledger import Asked, Ledger
from study.execute.plan import JUDGED, Bars, Pack, pack, plan
from study.execute.race import SHARES, runners
from study.execute.rungs import Rungs
from study.execute.search import Search


class Asker:
    """Hands out what is left to train of a study, and keeps what it came to.

    Args:
        study: The study.
        ledger: Its pages of the ledger, begun.
        room: Runs that a pack may hold (see `study.execute.plan.pack`).
        workers: How many packs may be in training at once.

    Raises:
        FailedWork: The ledger cannot be read.
    """

    def __init__(self, study: Study, ledger: Ledger, room: int = 1, workers: int = 1) -> None:
        self.study, self._ledger, self._room, self._workers = study, ledger, room, workers
        self._asked, self._outcomes = ledger.asked(), ledger.outcomes()
        self.plan = plan(study, [asked.search for asked in self._asked])
        self._searches = {name: Search(study, index, self.plan, name) for index, name in enumerate(study.spaces)}
        self._carries = self._carries_riders()
        self._hosts: dict[str, int] = {}  # by trajectory: the first setting of it, whose training riders watch
        self._rungs = Rungs(study, ledger.histories() if study.config.rung_steps else ())
        for asked in self._asked:
            self._searches[asked.search].add(asked)
            self._find_host(asked.setting)
        self._known_bars: dict[tuple[int, str], Bars] = {}
        self._told = 0  # the first settings, up to this number, are told
        self.ended_early = False  # whether the search has ended for want of gain
        self._gain = Gain(study)
        self._runners: list[set[int]] = []  # of each further stage of a race: the settings that get its seeds
        self._waiting: set[int] = set()  # those of the newest stage that still lack some
        self._finalists: list[Setting] | None = None  # until the search is done
        self._packs: deque[Pack] = deque()
        for start in range(0, len(self._asked), self.plan.wave):  # in the packs of before, if the workers are as many
            self._packs += self._packs_of_wave(self._asked[start : start + self.plan.wave])
        self._go_on()

    @property
    def asked_all(self) -> bool:
        """Whether everything has been handed out."""
        return not self._packs and self._finalists is not None

    def next(self) -> Pack | None:
        """The next pack to train; None if it has to wait for results, or none is left.

        Raises:
            FailedWork: The ledger cannot be written, or another driver has taken the study over.
        """
        if not self._packs:
            self._go_on()  # two waves may be asked without a result between them, after a kill
            self._ask_wave()
        return self._packs.popleft() if self._packs else None

    def split(self, pack: Pack) -> bool:
        """Hands a pack out once more, a setting at a time; False if it is of one setting."""
        if len(pack.settings) == 1:
            return False
        self._packs.extendleft(pack.of(setting) for setting in reversed(pack.settings))
        return True

    def tell(self, outcomes: Sequence[Outcome]) -> list[tuple[Setting, Outcome]]:
        """Keeps what a pack came to.

        Returns:
            The settings that are done now, with all of what they came to.

        Raises:
            FailedWork: The ledger cannot be written, or another driver has taken the study over.
        """
        self._ledger.tell(outcomes)
        done = []
        for outcome in outcomes:
            self._rungs.tell(outcome)
            before = self._outcomes.get(outcome.setting)
            seeds = sorted([*(before.seeds if before else ()), *outcome.seeds], key=lambda result: result.seed)
            whole = Outcome(outcome.setting, seeds)
            self._outcomes[outcome.setting] = whole
            setting = self._setting(outcome.setting)
            if not self._lacking(setting):
                self._waiting.discard(setting.number)
                done.append((setting, self._kept(setting) if before else whole))
        self._go_on()
        return done

    @property
    def finalists(self) -> Sequence[Setting]:
        """The settings that are measured on fresh seeds too; none before the search is done."""
        return self._finalists or ()

    @property
    def confirmed(self) -> int:
        """How many finalists have all of their fresh seeds."""
        return sum(not self._lacking(setting) for setting in self.finalists)

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return self._finalists is not None and self.confirmed == len(self._finalists)

    @property
    def race(self) -> tuple[int, int]:
        """How many settings are in the newest further stage of a race, and how many of these have all of its seeds."""
        running = len(self._runners[-1]) if self._runners else 0
        return running, running - len(self._waiting)

    def outcomes(self) -> Iterator[tuple[Setting, Outcome]]:
        """All settings that are done, with what they came to, in the order of their numbers, then confirmed riders.

        A setting is done when every seed is that all settings get; those of a further stage of a race, and its fresh
        seeds, are left out until all of them are done too.
        """
        for setting in [asked.setting for asked in self._asked if self._is_told(asked.setting.number)]:
            whole = self._searched(setting.number) if self._lacking(setting) else self._outcomes[setting.number]
            yield setting, whole
        for setting in self.finalists:
            if host_of(setting.number) is not None and not self._lacking(setting):
                yield setting, self._outcomes[setting.number]

    def whole(self, outcome: Outcome) -> Outcome:
        """An outcome that `outcomes` gave, with the whole of its histories."""
        seeds = {result.seed for result in outcome.seeds}
        kept = self._kept(self._setting(outcome.setting))
        return Outcome(kept.setting, [result for result in kept.seeds if result.seed in seeds])

    def _kept(self, setting: Setting) -> Outcome:
        """What the ledger has of a setting; a rider's seeds of the search are its host's."""
        kept = self._ledger.outcome(setting.number)
        if (host := host_of(setting.number)) is None:
            return kept
        ridden = outcome_of(self._ledger.outcome(host), self.study.config.steps, setting)
        return Outcome(setting.number, [*ridden.seeds, *kept.seeds])

    def _setting(self, number: int) -> Setting:
        """A setting that was asked, or a rider that is a finalist."""
        if host_of(number) is None:
            return self._asked[number].setting
        return next(setting for setting in self.finalists if setting.number == number)

    def _carries_riders(self) -> bool:
        """Whether riders watch trainings; where the config leaves it open, as the study began, however it goes on."""
        carried = self.study.config.search.riders.carried
        if carried != "auto":
            return carried == "always"
        uncoupled = (asked.setting.number for asked in self._asked if asked.setting["coupling"] == 0)
        begun = [self._outcomes[number] for number in uncoupled if number in self._outcomes]
        measured = [outcome for outcome in begun if outcome.part("search").state == "complete"]
        return any(result.riders for each in measured for result in each.seeds) if measured else self._room > 1

    def _find_host(self, setting: Setting) -> None:
        """Notes a setting whose training riders watch: the first that is asked of each trajectory that none pulls."""
        if setting["coupling"] == 0 and self._carries:
            self._hosts.setdefault(setting.trajectory, setting.number)

    def _ask_wave(self) -> None:
        """Draws and keeps the next wave if there is one and it has nothing to wait for."""
        numbers = self.plan.next_wave(len(self._asked))
        if self.ended_early or not numbers or self._count_told() < self.plan.needed(numbers[0]):
            return
        wave = list(self._draw(numbers, range(self.plan.needed(numbers[0]))))
        self._ledger.ask(wave)
        self._asked += wave
        for asked in wave:
            self._find_host(asked.setting)
        self._packs += self._packs_of_wave(wave)

    def _is_gainless(self) -> bool:
        """Whether as many settings as may be have come to nothing better, by those that the next wave waits for."""
        most, numbers = self.study.config.limits.settings_without_gain, self.plan.next_wave(len(self._asked))
        if most is None or not numbers or self._count_told() < (needed := self.plan.needed(numbers[0])):
            return False
        for number in range(len(self._gain), needed):
            self._gain.add(self._searched(number, 1))
        return self._gain.without(needed) >= most

    def _go_on(self) -> None:
        """Once all is told, hands out what the best settings get more: the next seeds of a race, then fresh ones."""
        self.ended_early = self.ended_early or self._is_gainless()
        last = len(self._asked) if self.ended_early else self.plan.settings
        while self._finalists is None and self._count_told() == last and not self._waiting:
            if len(self._runners) + 1 < len(self.study.config.stages):
                self._start_stage()
            else:
                self._choose_finalists()

    def _start_stage(self) -> None:
        """Chooses the settings that get the seeds of a race's next stage, and hands them out."""
        ended = len(self._runners) + 1
        running = self._runners[-1] if self._runners else range(len(self._asked))
        searches = {}
        for name in self._searches:
            numbers = [number for number in self.plan.numbers(name) if number < len(self._asked)]
            searched = [(self._setting(n), self._searched(n, ended)) for n in numbers if n in running]
            searches[name] = len(numbers), searched
        chosen = {each.number: each for each in runners(self.study, searches, SHARES[ended - 1])}
        self._runners.append({*chosen})
        self._waiting = {number for number, setting in chosen.items() if self._lacking(setting)}
        self._packs += self._packs_of(list(chosen.values()))

    def _choose_finalists(self) -> None:
        """Chooses the finalists, and hands them out with the seeds that they lack."""
        searched = [(asked.setting, self._searched(asked.setting.number)) for asked in self._asked]
        self._finalists = []
        for setting, outcome in finalists(self.study, searched):
            self._finalists.append(setting)
            if host_of(setting.number) is not None:
                fresh = self._outcomes.get(setting.number, Outcome(setting.number, [])).part("confirmation")
                self._outcomes[setting.number] = Outcome(setting.number, [*outcome.seeds, *fresh.seeds])
        self._packs += self._packs_of(self._finalists)

    def _draw(self, numbers: Sequence[int], told: Sequence[int]) -> Iterator[Asked]:
        """The settings of these numbers, as each search draws those of its own from the results of `told`."""
        drawn: dict[int, Asked] = {}
        for name, search in self._searches.items():
            search.learn({n: self._searched(n, 1) for n in told if self.plan.searches[n] == name})
            drawn |= {
                each.setting.number: each for each in search.draw([n for n in numbers if self.plan.searches[n] == name])
            }
        return (drawn[number] for number in numbers)

    def _count_told(self) -> int:
        """How many settings are told before the first that is not."""
        while self._told < len(self._asked) and self._is_told(self._told):
            self._told += 1
        return self._told

    def _is_told(self, number: int) -> bool:
        """Whether a setting has all of the seeds that every setting gets."""
        return number in self._outcomes and bool(self._searched(number, 1).seeds)

    def _searched(self, number: int, stages: int | None = None) -> Outcome:
        """What a setting came to on the seeds of the search: of the stages that it has whole, these first ones."""
        return self._outcomes[number].whole(self.study.config.stages[:stages])

    def _packs_of_wave(self, wave: Sequence[Asked]) -> list[Pack]:
        """The packs of what a wave lacks; it shares the workers with those before it, where it is short."""
        beside = self.plan.ahead if self.plan.waits else 1
        return self._packs_of([asked.setting for asked in wave], self._workers / beside)

    def _packs_of(self, settings: Sequence[Setting], workers: float | None = None) -> list[Pack]:
        """The packs of all that these settings lack, for so many workers, or all."""
        lacking = [(setting, seeds) for setting in settings for seeds in self._lacking(setting)]
        hosts = set(self._hosts.values()) if self.study.riders else ()
        packs = pack(self.study, lacking, self._room, hosts, workers or self._workers)
        return [replace(each, bars=self._bars_of(each)) if JUDGED in each.seeds else each for each in packs]

    def _bars_of(self, pack: Pack) -> dict[int, Bars]:
        """What the settings of a pack have to reach at each rung: as good as half of those told before they were drawn.

        A training that riders watch is not stopped: it serves many averages.
        """
        watched = self._hosts.keys() if self.study.riders else ()
        judged = [setting.number for setting in pack.settings if setting.trajectory not in watched]
        found = {number: self._bars(self.plan.needed(number), self.plan.searches[number]) for number in judged}
        return {number: bars for number, bars in found.items() if bars}

    def _bars(self, told: int, search: str) -> Bars:
        """What settings of a search have to reach by so many that are told, the first ones."""
        if (told, search) not in self._known_bars:
            numbers = [number for number in range(told) if self.plan.searches[number] == search]
            self._known_bars[told, search] = self._rungs.bars(numbers)
        return self._known_bars[told, search]

    def _lacking(self, setting: Setting) -> list[list[int]]:
        """The seeds that a setting lacks, as they go into packs; a finalist's fresh ones go into several."""
        outcome, config = self._outcomes.get(setting.number), self.study.config
        done = {result.seed for result in outcome.seeds} if outcome else set()
        further = zip(self._runners, config.stages[1:], strict=False)
        groups = [config.stages[0], *(stage for runners, stage in further if setting.number in runners)]
        if config.confirm is not None and setting in (self._finalists or ()):
            fresh = range(CONFIRMATION, CONFIRMATION + config.confirm.seeds)
            each = max(config.seeds, self._room // config.confirm.finalists)
            groups += [fresh[start : start + each] for start in range(0, len(fresh), each)]
        missing = [[seed for seed in group if seed not in done] for group in groups]
        return [seeds for seeds in missing if seeds]


def first_setting(study: Study) -> Setting:
    """The setting that the study asks first; nothing is kept."""
    planned = plan(study)
    name = planned.searches[0]
    search = Search(study, list(study.spaces).index(name), planned, name)
    return next(search.draw(planned.next_wave(0))).setting
