// Finds repeated values in bounded memory. Beyond the limit it samples: every second value, then every fourth, but
// all occurrences of each.

export interface Distinct {
  /** Adds the hash of a value; returns false once the column has too many repeats to be a key. */
  add(hash: number): boolean;
  /** Repeats among the sampled values. */
  readonly repeats: number;
  /** Share of the values that is sampled: 1, 1/2, 1/4 … */
  readonly share: number;
  readonly gaveUp: boolean;
}

/** Slots of 8 bytes for one column, 32 MB in all. A higher limit samples less of large files and takes more memory. */
const MAX_SLOTS = 2 ** 22;

/** Slots of 8 bytes that remain for several columns together. */
export interface Room {
  slots: number;
}
const NO_LIMIT: Room = { slots: Infinity };

/** Share of repeats that a key may have (rows of which the last one wins) before a column is none. */
const TOLERANCE = 0.02;
const ALWAYS_TOLERATED = 3;

const FIRST_SLOTS = 1024;

export function createDistinct(room: Room = NO_LIMIT): Distinct {
  let slots = new Float64Array(FIRST_SLOTS);
  let size = 0;
  let every = 1;
  let repeats = 0;
  let watched = 0;
  let gaveUp = false;

  function insert(table: Float64Array, hash: number): boolean {
    for (let at = hash % table.length; ; at = (at + 1) % table.length) {
      if (table[at] === hash) return false;
      if (table[at] === 0) {
        table[at] = hash;
        return true;
      }
    }
  }

  function grow(): void {
    const isFull = slots.length >= MAX_SLOTS || slots.length > room.slots;
    if (isFull) every *= 2;
    else room.slots -= slots.length;
    const next = new Float64Array(isFull ? slots.length : slots.length * 2);
    size = 0;
    for (const hash of slots)
      if (hash !== 0 && isWatched(hash)) {
        insert(next, hash);
        size++;
      }
    slots = next;
  }

  // The low bits choose the slot, the high bits whether the value is sampled.
  const isWatched = (hash: number): boolean => every === 1 || Math.floor(hash / 4294967296) % every === 0;

  return {
    add(hash) {
      if (gaveUp) return false;
      if (!isWatched(hash)) return true;
      watched++;
      if (insert(slots, hash)) {
        if (++size > slots.length * 0.6) grow();
      } else {
        repeats++;
        gaveUp = repeats > ALWAYS_TOLERATED + watched * TOLERANCE;
        if (gaveUp) {
          room.slots += slots.length - FIRST_SLOTS;
          slots = new Float64Array(1);
        }
      }
      return !gaveUp;
    },
    get repeats() {
      return repeats;
    },
    get share() {
      return 1 / every;
    },
    get gaveUp() {
      return gaveUp;
    },
  };
}
