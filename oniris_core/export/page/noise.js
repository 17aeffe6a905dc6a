// What a driver computes beside the graphs, as driver.py does: noise, and what the model is told of actions.

function mixed(...values) {
  let h = 0;
  for (const value of values) {
    h = (h + Math.imul(value, 0x9e3779b9) + 0x9e3779b9) >>> 0;
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b) >>> 0;
    h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35) >>> 0;
    h = (h ^ (h >>> 16)) >>> 0;
  }
  return h;
}

// Gaussian noise [count] of latent frame `number` of row `row` of noise `seed`; driver.py calls that seed * 2^32 + row.
export function noise(seed, row, number, count) {
  const key = mixed(row, seed, number), made = new Float64Array(count + 1);
  for (let i = 0; 2 * i < count; i++) {
    const size = Math.sqrt(-2 * Math.log((mixed(key, 1, i) + 1) / 2 ** 32)), turn = (2 * Math.PI * mixed(key, 2, i)) / 2 ** 32;
    made[2 * i] = size * Math.cos(turn);
    made[2 * i + 1] = size * Math.sin(turn);
  }
  return made.subarray(0, count);
}

// One action as features, `group` times, and the mark that it is known.
export function told(action, space, group) {
  const values = space.kind === "discrete" ? [action] : action;
  const one = values.flatMap((value, k) => {
    if (space.kind === "box") return [(2 * value - space.low[k] - space.high[k]) / (space.high[k] - space.low[k])];
    if (space.kind === "multi_binary") return [2 * value - 1];
    return Array.from({ length: space.sizes[k] }, (_, i) => (value - space.start[k] === i ? Math.sqrt(space.sizes[k]) : 0));
  });
  return [...Array.from({ length: group }, () => one).flat(), 0];
}
