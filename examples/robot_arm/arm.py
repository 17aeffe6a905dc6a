"""A planar robot arm that pushes a block about a table, simulated by Box2D and seen by two cameras.

The arm has two joints. An action is the two angles, in radians, that the joints' servos are to reach; they need about one
frame for it, longer where the block at the rim of the table is in the way. Lengths are metres, seen from above.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import Box2D
import numpy as np
from PIL import Image, ImageDraw

FPS = 10
SUBSTEPS = 6
SIZE = 128
"""Pixels of a side of a camera's picture."""
TABLE = 1.15
"""Half a side of the table, whose rim the block cannot leave."""
BASE = np.array([0.0, -1.0])
UPPER, FORE = 0.95, 0.85
BLOCK = 0.15
"""Half a side of the block."""
GAIN, FASTEST, TORQUE = 20.0, 5.0, 4.0
"""Of the servos: 1/s, rad/s, N m."""
CAMERAS = {"overhead": 1.25, "gripper": 0.45}
"""Half a side of what each one sees; `overhead` stands still, `gripper` moves and turns with the forearm."""


class Arm:
    """The table with arm and block.

    Args:
        angles: of the two joints at first, radians.
        block: its place and its angle at first, (x, y, angle).
    """

    def __init__(self, angles: np.ndarray, block: np.ndarray):
        world = self._world = Box2D.b2World(gravity=(0, 0))
        ground = world.CreateStaticBody()
        for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):  # thick, so that no block is squeezed through it
            centre = ((TABLE + 0.5) * x, (TABLE + 0.5) * y)
            ground.CreateFixture(shape=Box2D.b2PolygonShape(box=(0.5 + abs(y), 0.5 + abs(x), centre, 0)), maskBits=2)
        elbow = BASE + UPPER * along(angles[0])
        upper = world.CreateDynamicBody(position=BASE.tolist(), angle=float(angles[0]), angularDamping=2)
        upper.CreateFixture(shape=_bar(UPPER, 0.05), density=1, groupIndex=-1, categoryBits=4, maskBits=2)
        fore = world.CreateDynamicBody(position=elbow.tolist(), angle=float(angles.sum()), angularDamping=2)
        tip = Box2D.b2CircleShape(pos=(FORE, 0), radius=0.09)
        for shape in (_bar(FORE, 0.04), tip):
            fore.CreateFixture(shape=shape, density=1, groupIndex=-1, categoryBits=4, maskBits=2, friction=0.6)
        motor = {"enableMotor": True, "maxMotorTorque": TORQUE}
        shoulder = world.CreateRevoluteJoint(bodyA=ground, bodyB=upper, anchor=BASE.tolist(), **motor)
        bend = world.CreateRevoluteJoint(bodyA=upper, bodyB=fore, anchor=elbow.tolist(), **motor)
        # Box2D counts a joint's angle from where it is made.
        self._joints, self._zero, self._fore = (shoulder, bend), np.array(angles, float), fore
        self._block = world.CreateDynamicBody(position=block[:2].tolist(), angle=float(block[2]))
        self._block.CreateFixture(
            shape=Box2D.b2PolygonShape(box=(BLOCK, BLOCK)), density=2, friction=0.6, categoryBits=2, maskBits=65535
        )
        # A table rubs: that is a joint to the ground with little force.
        world.CreateFrictionJoint(
            bodyA=ground, bodyB=self._block, localAnchorB=(0, 0), maxForce=0.8, maxTorque=0.08, collideConnected=True
        )

    @property
    def angles(self) -> np.ndarray:
        """float64 [2]: of the joints, radians."""
        return self._zero + [joint.angle for joint in self._joints]

    @property
    def block(self) -> np.ndarray:
        """float64 [3]: place and angle of the block."""
        return np.array([*self._block.position, self._block.angle])

    @property
    def tip(self) -> np.ndarray:
        """float64 [2]: where the gripper is."""
        return np.array(self._fore.GetWorldPoint((FORE, 0)))

    def step(self, target: np.ndarray) -> None:
        """Let the servos pull towards two angles for the time of one frame."""
        for _ in range(SUBSTEPS):
            for joint, error in zip(self._joints, target - self.angles, strict=True):
                joint.motorSpeed = float(np.clip(GAIN * error, -FASTEST, FASTEST))
            self._world.Step(1 / (FPS * SUBSTEPS), 10, 10)

    def picture(self, camera: str) -> np.ndarray:
        """uint8 [SIZE, SIZE, 3]: what a camera sees, drawn four times as fine and averaged."""
        fine, half = 4 * SIZE, CAMERAS[camera]
        turn, centre = (float(self.angles.sum()) - np.pi / 2, self.tip) if camera == "gripper" else (0.0, np.zeros(2))
        right = along(turn)

        def pixels(points: np.ndarray) -> list[tuple[float, float]]:
            seen = (points - centre) @ np.stack([right, [-right[1], right[0]]], axis=1)
            return [(float(x), float(y)) for x, y in (seen * (1, -1) / half + 1) * fine / 2]

        image = Image.new("RGB", (fine, fine), (34, 38, 46))
        draw = ImageDraw.Draw(image)
        rim = np.array([[-TABLE, -TABLE], [TABLE, -TABLE], [TABLE, TABLE], [-TABLE, TABLE]])
        draw.polygon(pixels(rim), fill=(196, 188, 172))
        for at in np.linspace(-TABLE, TABLE, 5)[1:-1]:
            for line in ([[at, -TABLE], [at, TABLE]], [[-TABLE, at], [TABLE, at]]):
                draw.line(pixels(np.array(line)), fill=(172, 164, 148), width=max(round(0.02 * fine / half / 2), 1))
        x, y, angle = self.block
        side = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * BLOCK
        ahead = along(angle)
        corners = side @ np.stack([ahead, [-ahead[1], ahead[0]]]) + (x, y)
        draw.polygon(pixels(corners), fill=(206, 54, 44))
        draw.polygon(pixels(np.array([corners[1], corners[2], [x, y]])), fill=(245, 190, 60))  # shows how it is turned
        elbow, tip = BASE + UPPER * along(self.angles[0]), self.tip
        for start, end, width, colour in ((BASE, elbow, 0.1, (52, 92, 160)), (elbow, tip, 0.08, (84, 140, 212))):
            across = (end - start)[::-1] * (-1, 1) / np.linalg.norm(end - start) * width / 2
            draw.polygon(pixels(np.array([start - across, end - across, end + across, start + across])), fill=colour)
        for at, radius, colour in ((BASE, 0.11, (28, 48, 84)), (elbow, 0.08, (28, 48, 84)), (tip, 0.09, (40, 150, 84))):
            ((u, v),) = pixels(at[None])
            r = radius * fine / half / 2
            draw.ellipse((u - r, v - r, u + r, v + r), fill=colour)
        return np.asarray(image.reduce(4))


def along(angle: float) -> np.ndarray:
    """float64 [2]: the unit vector at an angle."""
    return np.array([np.cos(angle), np.sin(angle)])


def reach(point: np.ndarray) -> np.ndarray:
    """float64 [2]: the joints' angles that bring the gripper to a point, or as near as it gets, the elbow to the right."""
    away = point - BASE
    far = float(np.clip(np.linalg.norm(away), 0.35, UPPER + FORE - 0.06))
    bend = np.arccos(np.clip((far**2 - UPPER**2 - FORE**2) / (2 * UPPER * FORE), -1, 1))
    lean = np.arctan2(FORE * np.sin(bend), UPPER + FORE * np.cos(bend))
    return np.array([np.arctan2(away[1], away[0]) - lean, bend])


@dataclass(frozen=True)
class Row:
    """What is recorded at one frame: the angles of the joints, the block, the action taken there, and what each camera sees."""

    state: np.ndarray
    block: np.ndarray
    action: np.ndarray
    pictures: dict[str, np.ndarray]


def play(rng: np.random.Generator, frames: int) -> Iterator[Row]:
    """An episode: a script pushes the block here and there, wanders and pauses, and its hand trembles.

    Args:
        rng: decides all of it.
        frames: how many.
    """
    block = np.array([*rng.uniform((-0.75, -0.35), (0.75, 0.75)), rng.uniform(-np.pi, np.pi)])
    at = rng.uniform((-0.9, -0.5), (0.9, 0.7))
    while np.linalg.norm(at - block[:2]) < 0.45:
        at = rng.uniform((-0.9, -0.5), (0.9, 0.7))
    arm, tremble, goals, pause, speed = Arm(reach(at), block), np.zeros(2), list[np.ndarray](), 0, 0.1
    for _ in range(frames):
        if not goals and not pause:
            if rng.random() < 0.8:  # push: behind the block, then through it, rather to the middle than to the rim
                inward = np.array([0, 0.2]) - arm.block[:2]
                ahead = along(np.arctan2(inward[1], inward[0]) + rng.normal(0, 1.2))
                goals = [arm.block[:2] - 0.33 * ahead, arm.block[:2] + rng.uniform(0.3, 0.7) * ahead]
            else:
                goals = [rng.uniform((-0.9, -0.6), (0.9, 0.8))]
            goals = [np.clip(goal, (-0.95, -0.65), (0.95, 0.85)) for goal in goals]
            pause, speed = int(rng.integers(3, 9)) * int(rng.random() < 0.2), rng.uniform(0.06, 0.14)
        if pause:
            pause -= 1
        else:
            away = goals[0] - at
            far = float(np.linalg.norm(away))
            at = at + away * min(speed / max(far, 1e-9), 1)
            goals = goals[1:] if far <= speed else goals
        tremble = 0.7 * tremble + rng.normal(0, 0.03, 2)
        action = (reach(at) + tremble).astype(np.float32)
        yield Row(arm.angles, arm.block, action, {camera: arm.picture(camera) for camera in CAMERAS})
        arm.step(action.astype(np.float64))


def _bar(length: float, half_width: float) -> Box2D.b2PolygonShape:
    return Box2D.b2PolygonShape(box=(length / 2, half_width, (length / 2, 0), 0))
