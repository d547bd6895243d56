// Caches the behaviors that graphile-build computes again at each of some hundred thousand lookups. Parsing their
// texts takes more than half the time of building a schema.
import "graphile-build";

type Behavior = GraphileBuild.Build["behavior"];

/** Values by entity. An entity may be a list, such as a codec and the name of one of its columns. */
class EntityMap<V> {
  #value: V | undefined;
  readonly #next = new Map<unknown, EntityMap<V>>();

  get(entity: unknown, make: () => V): V {
    const parts: unknown[] = Array.isArray(entity) ? entity : [entity];
    const place = parts.reduce<EntityMap<V>>((map, part) => {
      let next = map.#next.get(part);
      if (!next) map.#next.set(part, (next = new EntityMap()));
      return next;
    }, this);
    return (place.#value ??= make());
  }
}

const getOrMake = <K, V>(map: Map<K, V>, key: K, make: () => V): V => {
  if (!map.has(key)) map.set(key, make());
  return map.get(key)!;
};

interface Memory {
  /** Text of the behavior by type of entity and entity. */
  texts: Map<string, EntityMap<string>>;
  /** Results by filter, then by text of the behavior. */
  answers: Map<string, Map<string, boolean | undefined>>;
}
/** The class is patched, since each schema has its own frozen Behavior. */
const memories = new WeakMap<Behavior, Memory>();

function addMemory(prototype: Behavior): void {
  // eslint-disable-next-line @typescript-eslint/unbound-method -- It is called with the behavior that was asked.
  const { entityMatches } = prototype;
  prototype.entityMatches = function (this: Behavior, entityType, entity, filter) {
    let memory = memories.get(this);
    if (!memory) memories.set(this, (memory = { texts: new Map(), answers: new Map() }));
    const { texts, answers } = memory;
    const known = getOrMake(answers, `${entityType} ${filter}`, () => {
      // Run the original method, which warns about unregistered filters.
      entityMatches.call(this, entityType, entity as never, filter);
      return new Map<string, boolean | undefined>();
    });
    const text = getOrMake(texts, entityType, () => new EntityMap<string>()).get(
      entity,
      () => this.getBehaviorForEntity(entityType, entity as never).behaviorString,
    );
    return getOrMake(known, text, () => this.stringMatches(text, filter));
  };
}

let isAdded = false;

export const BehaviorCachePlugin: GraphileConfig.Plugin = {
  name: "BehaviorCachePlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      init: {
        before: ["*"],
        callback(init, { behavior }) {
          if (!isAdded) addMemory(Object.getPrototypeOf(behavior) as Behavior);
          isAdded = true;
          return init;
        },
      },
    },
  },
};
