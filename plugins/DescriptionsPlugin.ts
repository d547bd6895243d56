import type {} from "graphile-build";
import {
  isEnumType,
  isInputObjectType,
  isInterfaceType,
  isObjectType,
  type GraphQLNamedType,
} from "grafast/graphql";

type Rule = [pattern: RegExp, description: string];

/** Converts an enum value's name to words. */
const words = (name: string) => name.toLowerCase().replaceAll("_", " ");

/** Descriptions of types by name; the first matching pattern applies. `$1` is its captured text. */
const types: Rule[] = [
  [/^(\w+)(Sum|DistinctCount|Min|Max|Average)Aggregates$/, "Aggregate values of `$1` by column."],
  [/^(\w+)Aggregates$/, "Aggregate values of a set of `$1`."],
  [/^(\w+)GroupBy$/, "What to group `$1` by."],
  [
    /^(\w+)Having(Sum|DistinctCount|Min|Max|Average)Input$/,
    "Conditions on aggregate values of `$1` by column.",
  ],
  [/^(\w+)HavingInput$/, "Conditions that groups of `$1` must meet."],
  [
    /^(\w+?)(?:Sum|DistinctCount|Min|Max|Average)AggregateFilter$/,
    "Conditions on aggregate values of the related `$1` by column. All fields are combined with a logical ‘and.’",
  ],
  [/^Having(\w+)Filter$/, "Conditions on an aggregate value. All fields are combined with a logical ‘and.’"],
];

/** Descriptions of enum values by name. */
const values: Rule[] = [
  [/^NATURAL$/, "In no particular order."],
  [/^PRIMARY_KEY_ASC$/, "By the key, ascending."],
  [/^PRIMARY_KEY_DESC$/, "By the key, descending."],
  [/^(\w+?)S_COUNT_(ASC|DESC)$/, "By the number of related {1}s, {2}."],
  [
    /^(\w+)_(SUM|MIN|MAX|AVERAGE|DISTINCT_COUNT)_(\w+)_(ASC|DESC)$/,
    "By the {2} of {3} over the related {1}, {4}.",
  ],
  [/^(\w+)_TRUNCATED_TO_(\w+)$/, "By the {2} of {1}."],
  [/^(\w+)_(ASC|DESC)$/, "By {1}, {2}."],
  [/^(\w+)$/, "By {1}."],
];

/** Descriptions of fields, input fields and arguments, by their type's name and their own. */
const fields: Rule[] = [
  [/^DiscardQuarantinedInput\.ids$/, "The records, by `quarantineId`."],
  [/^DiscardQuarantinedInput\.reason$/, "All records rejected for this reason, such as `valid_email`."],
  [/^DiscardQuarantinedInput\.everything$/, "All records in quarantine."],
  [/^DiscardQuarantinedInput\.dataset$/, "All records of this dataset."],
  [/^DiscardQuarantinedPayload\.result$/, "How many records."],
  [
    /^\w+Aggregates\.keys$/,
    "Values that the rows of the group have in common, as text in the order of `groupBy`; null in a total.",
  ],
  [/^\w+\.AND$/, "All of these conditions hold."],
  [/^\w+\.OR$/, "At least one of these conditions holds."],
  [/^\w+HavingInput\.(\w+)$/, "Conditions on `$1` values."],
  [/^\w+Having\w+Input\.(\w+)$/, "Condition on the value for `$1`."],
  [/^Having\w+Filter\.(equalTo|notEqualTo)$/, "Whether the value is equal to this one."],
  [
    /^Having\w+Filter\.(lessThan|lessThanOrEqualTo)$/,
    "Whether the value is less than this one, or equal to it.",
  ],
  [
    /^Having\w+Filter\.(greaterThan|greaterThanOrEqualTo)$/,
    "Whether the value is greater than this one, or equal to it.",
  ],
  [/^\w+AggregatesFilter\.(\w+)$/, "Conditions on `$1` values of the related rows."],
  [/^\w+AggregateFilter\.(\w+)$/, "Condition on the value for `$1`."],
  [/^Delete\w+Payload\.deleted\w+Id$/, "Globally unique identifier of the deleted row."],
  [/\.clientMutationId$/, "Any text; the payload repeats it."],
  [/^Mutation\.\w+\.input$/, "What to do."],
  [/^Query\.\w+\.(\w+)$/, "`$1` of the row."],
  [/^(?:Update|Delete)\w+Input\.(\w+)$/, "`$1` of the row."],
  [/^\w+(?:Input|Patch)\.(\w+)$/, "Value for `$1`."],
];

function describe(rules: Rule[], name: string): string | undefined {
  const rule = rules.find(([pattern]) => pattern.test(name));
  if (!rule) return undefined;
  const [pattern, description] = rule;
  const parts = pattern.exec(name)!;
  return description
    .replace(/\$(\d)/g, (_, part: string) => parts[Number(part)]!)
    .replace(/\{(\d)\}/g, (_, part: string) =>
      words(parts[Number(part)]!)
        .replace(/^asc$/, "ascending")
        .replace(/^desc$/, "descending"),
    );
}

/** Describes every element of the schema: descriptions that PostGraphile and its presets omit follow from rules. */
export const DescriptionsPlugin: GraphileConfig.Plugin = {
  name: "DescriptionsPlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      finalize(schema) {
        for (const type of Object.values(schema.getTypeMap()))
          if (!type.name.startsWith("__")) complete(type);
        return schema;
      },
    },
  },
};

function complete(type: GraphQLNamedType): void {
  type.description ??= describe(types, type.name);
  if (isEnumType(type))
    for (const value of type.getValues()) value.description ??= describe(values, value.name);
  if (!isObjectType(type) && !isInterfaceType(type) && !isInputObjectType(type)) return;
  for (const field of Object.values(type.getFields())) {
    field.description ??= describe(fields, `${type.name}.${field.name}`);
    if (!("args" in field)) continue;
    for (const argument of field.args) {
      argument.description ??= describe(fields, `${type.name}.${field.name}.${argument.name}`);
    }
  }
}
