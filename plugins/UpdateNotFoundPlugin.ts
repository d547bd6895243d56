import { SafeError, sideEffect, type ObjectStep } from "grafast";
import type {} from "postgraphile";

/** Makes an update without a matching row an error, like a delete; PostGraphile returns null. */
export const UpdateNotFoundPlugin: GraphileConfig.Plugin = {
  name: "UpdateNotFoundPlugin",
  version: "1.0.0",
  schema: {
    hooks: {
      GraphQLObjectType_fields_field(field, _build, { scope: { isPgUpdateMutation } }) {
        const plan = field.plan;
        if (!isPgUpdateMutation || !plan) return field;
        return {
          ...field,
          plan(...args) {
            const $payload = plan.apply(this, args) as ObjectStep;
            sideEffect($payload.getStepForKey("result"), (row) => {
              if (row == null) throw new SafeError(notFound, { code: "NOT_FOUND" });
            });
            return $payload;
          },
        };
      },
    },
  },
};

export const notFound = "The row does not exist, or your role may not change it";
