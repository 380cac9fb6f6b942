"""Every life that the plan may lead to: hypothesis makes pods and what happens to them."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pods import container, pod
from tests.support.simulation import Simulation, named
from tests.unit.pods.lives import BOTH, POST_START, PRE_STOP, PROBE, rule
from wasmlet.kube.types import (
    Container,
    Pod,
)
from wasmlet.pods import plan, stops
from wasmlet.pods.plan import Stage
from wasmlet.pods.restarts import BackOff
from wasmlet.pods.view import all_containers

POLICIES = st.sampled_from(["Always", "OnFailure", "Never"])

RULES = st.lists(
    st.builds(
        rule,
        st.sampled_from(["Restart", "RestartAllContainers"]),
        st.sampled_from([0, 1, 3, 137, 143]),
        operator=st.sampled_from(["In", "NotIn"]),
    ),
    max_size=2,
)


def containers(name: str) -> st.SearchStrategy[Container]:
    return st.builds(
        lambda own, rules, started, hooks: container(
            name, restart_policy=own, restart_policy_rules=rules if own else [], startup_probe=started, lifecycle=hooks
        ),
        st.none() | POLICIES,
        RULES,
        st.sampled_from([None, None, PROBE]),
        st.sampled_from([None, None, PRE_STOP, POST_START, BOTH]),
    )


PODS = st.builds(
    lambda apps, inits, policy, deadline: pod(
        *apps, init_containers=inits, restart_policy=policy, active_deadline_seconds=deadline
    ),
    st.integers(1, 2).flatmap(lambda count: st.tuples(*[containers(f"app{number}") for number in range(count)])),
    st.integers(0, 3).flatmap(
        lambda count: st.tuples(*[containers(f"init{number}") for number in range(count)]).map(list)
    ),
    POLICIES,
    st.sampled_from([None, None, None, 0, 30, 1000]),
)

NAMES = st.sampled_from(["app0", "app1", "init0", "init1", "init2"])

ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("exit"), NAMES, st.sampled_from([0, 0, 1, 3])),
        st.tuples(st.just("unhealthy"), NAMES, st.sampled_from([0, 5, 100])),
        st.tuples(st.just("startup"), NAMES, st.just(0)),
        st.tuples(st.just("hook"), NAMES, st.sampled_from([0, 1])),
        st.tuples(st.just("fail"), NAMES, st.sampled_from([0, 1])),
        st.tuples(st.just("stop takes"), NAMES, st.sampled_from([0, 3, 1000])),
        st.tuples(st.just("time"), NAMES, st.sampled_from([1, 12, 400, 1000])),
        st.tuples(st.just("delete"), NAMES, st.sampled_from([0, 2, 30])),
    ),
    max_size=25,
)


class Checked(Simulation):
    """Looks at every step whether it may be."""

    def __init__(self, pod: Pod) -> None:
        super().__init__(pod, back_off=BackOff())
        self.counts: dict[str, int] = {}
        self.phase = ""
        self.previous = self.status()

    def _apply(self, step: plan.Step) -> None:
        if isinstance(step, plan.Start):
            assert self.is_at(Stage.RUNNING)
            assert self.running(step.container) is None, "it runs already"
            last = self.facts.container(step.container).last
            assert step.number == (0 if last is None else last.number + 1)
            assert step.number == self.counts.get(step.container, -1) + 1
        if isinstance(step, plan.Signal):
            self._look_at_signal(step)
        if isinstance(step, plan.End):
            assert not [each.name for each in all_containers(self.pod) if self.running(each.name)]
        super()._apply(step)
        for each in all_containers(self.pod):
            if (last := self.facts.container(each.name).last) is not None:
                self.counts[each.name] = last.number

    def _look_at_signal(self, step: plan.Signal) -> None:
        attempt, container = self.running(step.container), named(self.pod, step.container)
        assert attempt is not None
        assert attempt.stopping is not None
        assert attempt.stopping.signalled_at is None, "it was asked before"
        is_over = self.now >= attempt.stopping.at + attempt.stopping.grace_seconds
        assert is_over or not stops.is_pre_stopping(container, attempt)
        assert step.grace_seconds >= 2 or attempt.stopping.reason == "restart-all"

    def settle(self) -> plan.Wait:
        wait = super().settle()
        for moment in self.moments():
            if self.now < moment < (wait.until or float("inf")):
                step = plan.next_step(self.view(at=moment))
                assert isinstance(step, plan.Wait), f"{step} is due at {moment}, but the plan waits until {wait.until}"
        self._look_at_status()
        return wait

    def _look_at_status(self) -> None:
        status = self.status(self.previous)
        if self.phase in ("Succeeded", "Failed"):
            assert status.phase == self.phase
        if status.phase in ("Succeeded", "Failed"):
            assert self.facts.ended_at is not None
        for each in [*status.init_container_statuses, *status.container_statuses]:
            states = [each.state.waiting, each.state.running, each.state.terminated]
            assert sum(state is not None for state in states) == 1
            assert not (each.ready and each.state.waiting)
        self.phase, self.previous = status.phase, status
        msgspec.json.encode(status)

    def act(self, action: str, name: str, value: int) -> None:
        if action == "delete":
            self.delete(value)
        elif action == "time":
            self.pass_time(value)
        elif action == "stop takes":
            self.stop_seconds = value
        elif name not in {each.name for each in all_containers(self.pod)}:
            return
        elif action == "exit":
            self.exit(name, value)
        elif action == "unhealthy":
            self.fail_probe(name, grace_seconds=value or None)
        elif action == "startup":
            self.pass_startup(name)
        elif action == "hook":
            self.end_hook(name, well=bool(value))
        elif action == "fail":
            self.failing[name] = "config" if value else "image"


@settings(max_examples=300, deadline=None)
@given(PODS, ACTIONS)
def test_every_life_is_orderly(made: Pod, actions: list[tuple[str, str, int]]) -> None:
    simulation = Checked(made)
    simulation.settle()
    for action in actions:
        simulation.act(*action)
        simulation.settle()
    simulation.delete(30)
    simulation.pass_time(31 + 4)  # the grace, and the two seconds that every kill has
    assert simulation.is_at(Stage.GONE)
    starts = len(simulation.started)
    simulation.pass_time(5000)
    assert len(simulation.started) == starts
