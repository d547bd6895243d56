// A map that evicts its least recently used entries when together they weigh more than allowed.

export interface BoundedMap<K, V> {
  /** Marks the entry as the most recently used. */
  get(key: K): V | undefined;
  has(key: K): boolean;
  /** An entry that alone weighs more than the map may hold is not kept. */
  set(key: K, value: V, weight?: number): void;
  /** Adds to the weight of an entry, if it is still there. */
  grow(key: K, by: number): void;
  delete(key: K): void;
  readonly weight: number;
}

/** Without weights, `maxWeight` is the number of entries. */
export function createBoundedMap<K, V>(maxWeight: number): BoundedMap<K, V> {
  const entries = new Map<K, { key: K; value: V; weight: number }>();
  let total = 0;
  let newest: K | undefined;

  function remove(key: K): void {
    total -= entries.get(key)?.weight ?? 0;
    entries.delete(key);
  }

  function insert(key: K, value: V, weight: number): void {
    remove(key);
    if (weight > maxWeight) return;
    entries.set(key, { key, value, weight });
    newest = key;
    total += weight;
    while (total > maxWeight) remove(entries.keys().next().value!);
  }

  return {
    get(key) {
      const entry = entries.get(key);
      if (!entry) return undefined;
      if (entry.key !== newest) {
        // Reuse the entry's key: the caller's may be a slice of a request body, which it would keep in memory.
        newest = entry.key;
        entries.delete(newest);
        entries.set(newest, entry);
      }
      return entry.value;
    },
    has: (key) => entries.has(key),
    set: (key, value, weight = 1) => insert(key, value, weight),
    grow(key, by) {
      const entry = entries.get(key);
      if (entry) insert(key, entry.value, entry.weight + by);
    },
    delete: remove,
    get weight() {
      return total;
    },
  };
}
