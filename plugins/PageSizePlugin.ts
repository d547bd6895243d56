import type { PgSelectStep } from "@dataplan/pg";
import {
  constant,
  lambda,
  listTransform,
  SafeError,
  type ConnectionStep,
  type FieldArgs,
  type FieldInfo,
  type Step,
} from "grafast";
import type {} from "postgraphile";

declare global {
  namespace GraphileBuild {
    interface SchemaOptions {
      /** Rows of a connection without `first` or `last`. */
      defaultPageSize?: number;
      /** Maximum of `first` and `last`, and of groups. */
      maxPageSize?: number;
    }
  }
}

type PageSize = number | null | undefined;
type Plan = ($parent: Step, args: FieldArgs, info: FieldInfo) => ConnectionStep<never>;

type GroupsPlan = ($parent: Step, args: FieldArgs, info: never) => Step;

const exceeded = (message: string, limit: number) =>
  new SafeError(message, { code: "PAGE_SIZE_EXCEEDED", limit });

/** Groups have no pages, so more than the limit is an error rather than a silent cut. */
function atMost(limit: number, $groups: PgSelectStep): Step {
  $groups.setFirst(constant(limit + 1));
  return listTransform({
    listStep: $groups,
    // The step depends on the item, because the planner would remove it otherwise.
    itemPlanCallback: ($group) => lambda($group, () => true, true),
    initialState: (): unknown[] => [],
    reduceCallback(groups, group) {
      groups.push(group);
      return groups;
    },
    finalizeCallback(groups) {
      if (groups.length <= limit) return groups;
      throw exceeded(`These are more than ${limit} groups; narrow them by \`filter\` or \`having\`.`, limit);
    },
    listItem: ($group) => $groups.listItem($group as never),
  });
}

/** Limits the page size of connections: a default, and a maximum for the client's own. */
export const PageSizePlugin: GraphileConfig.Plugin = {
  name: "PageSizePlugin",
  version: "1.0.0",
  after: ["PgFirstLastBeforeAfterArgsPlugin"],
  schema: {
    hooks: {
      GraphQLObjectType_fields_field_args(args, build, { scope: { isPgFieldConnection } }) {
        const { first, last } = args;
        if (!isPgFieldConnection || !first) return args;
        const { defaultPageSize = 100, maxPageSize = 1000 } = build.options;
        const limits = `At most ${maxPageSize}.`;
        // Set by the field below, which has access to both arguments.
        return {
          ...args,
          first: {
            ...first,
            description: `Maximum number of rows to read from the start; ${defaultPageSize} without \`first\` or \`last\`. ${limits}`,
            applyPlan: undefined,
          },
          // Rows of functions have no `last`.
          ...(last && {
            last: {
              ...last,
              description: `Maximum number of rows to read from the end. ${limits}`,
              applyPlan: undefined,
            },
          }),
        };
      },

      GraphQLObjectType_fields_field(
        field,
        build,
        { scope: { isPgFieldConnection, isConnectionType, fieldName } },
      ) {
        const { defaultPageSize = 100, maxPageSize = 1000 } = build.options;
        if (isConnectionType && fieldName === "groupedAggregates") {
          const plan = field.plan as unknown as GroupsPlan;
          const bounded: GroupsPlan = ($parent, args, info) => {
            const $groups = plan($parent, args, info) as PgSelectStep;
            args.autoApply($groups);
            return atMost(maxPageSize, $groups);
          };
          return { ...field, plan: bounded as typeof field.plan };
        }
        const plan = field.plan as Plan | undefined;
        if (!isPgFieldConnection || !plan) return field;

        const checked = (name: string, size: PageSize): PageSize => {
          if (size == null || (size >= 0 && size <= maxPageSize)) return size;
          throw exceeded(`\`${name}\` must be between 0 and ${maxPageSize}, but is ${size}.`, maxPageSize);
        };
        const paged: Plan = ($parent, args, info) => {
          const $connection = plan($parent, args, info);
          const hasLast = info.field.args.some(({ name }) => name === "last");
          const [$first, $last] = [args.getRaw("first"), hasLast ? args.getRaw("last") : constant(null)];
          // Set the limit on the rows: with a size, the connection would fetch a page even for its count alone.
          const $rows = $connection.getSubplan() as unknown as PgSelectStep;
          $rows.setFirst(
            lambda([$first, $last] as const, ([first, last]: readonly unknown[]) =>
              checked("first", (first as PageSize) ?? (last == null ? defaultPageSize : null)),
            ) as Step<number>,
          );
          if (hasLast)
            $rows.setLast(lambda($last, (last) => checked("last", last as PageSize)) as Step<number>);
          return $connection;
        };
        return { ...field, plan: paged as typeof field.plan };
      },
    },
  },
};
