// Splits an SQL file into statements, which are sent one by one, so that each error has a line.

export interface Statement {
  text: string;
  /** Line on which it begins, from 1. */
  line: number;
}

export const faultAt = (line: number, message: string): Error & { line: number } =>
  Object.assign(new Error(message), { line });

const TOKEN =
  /--[^\n]*|\/\*|[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*|\$(?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?\$|\S/g;

/** Returns statements without leading comments and the semicolon; throws for syntax that only psql handles. */
export function splitStatements(sql: string): Statement[] {
  const statements: Statement[] = [];
  let start = -1;
  let words: string[] = [];
  let parentheses = 0;
  // Depth of begin/case … end within the SQL-standard body of a function, whose semicolons end nothing.
  let bodies = 0;
  let lastWordEnd = -1;
  const finish = (end: number): void => {
    if (start >= 0) statements.push({ text: sql.slice(start, end), line: lineAt(sql, start) });
    start = -1;
    words = [];
    parentheses = bodies = 0;
  };
  for (let at = 0; ;) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(sql);
    if (!match) break;
    const [token] = match;
    const begin = match.index;
    at = begin + token.length;
    if (token.startsWith("--")) continue;
    if (token === "/*") {
      at = afterComment(sql, begin);
      continue;
    }
    if (token === ";" && parentheses <= 0 && bodies === 0) {
      finish(begin);
      continue;
    }
    if (start < 0) start = begin;
    if (token === "(") parentheses++;
    else if (token === ")") parentheses--;
    else if (token === "'") {
      const escapes = lastWordEnd === begin && /^e$/i.test(words.at(-1) ?? "");
      at = afterQuote(sql, at, escapes ? /\\[^]|''|'/g : /''|'/g, "'", begin);
    } else if (token === '"') at = afterQuote(sql, at, /""|"/g, '"', begin);
    else if (token.length > 1 && token.startsWith("$")) {
      const close = sql.indexOf(token, at);
      if (close === -1) throw faultAt(lineAt(sql, begin), `the quote ${token} is not closed`);
      at = close + token.length;
    } else if (token === "\\")
      throw faultAt(
        lineAt(sql, begin),
        `"${/^\S*/.exec(sql.slice(begin))![0]}" is a command of psql; a file of datasets holds SQL alone`,
      );
    else if (/^\w/.test(token)) {
      words.push(token.toLowerCase());
      lastWordEnd = at;
      if (isRoutine(words)) bodies = bodyDepth(bodies, words.at(-1)!);
    }
  }
  finish(sql.trimEnd().length);
  return statements;
}

const isRoutine = ([first, ...rest]: string[]): boolean =>
  first === "create" && /^(or replace )?(function|procedure)\b/.test(rest.slice(0, 3).join(" "));

function bodyDepth(depth: number, word: string): number {
  if (word === "begin" || (word === "case" && depth > 0)) return depth + 1;
  return word === "end" && depth > 0 ? depth - 1 : depth;
}

function afterComment(sql: string, start: number): number {
  let depth = 0;
  const edge = /\/\*|\*\//g;
  edge.lastIndex = start;
  for (let match = edge.exec(sql); match; match = edge.exec(sql)) {
    depth += match[0] === "/*" ? 1 : -1;
    if (depth === 0) return edge.lastIndex;
  }
  throw faultAt(lineAt(sql, start), "the comment /* is not closed");
}

function afterQuote(sql: string, from: number, edge: RegExp, quote: string, begin: number): number {
  edge.lastIndex = from;
  for (let match = edge.exec(sql); match; match = edge.exec(sql))
    if (match[0] === quote) return edge.lastIndex;
  throw faultAt(lineAt(sql, begin), `the quote ${quote} is not closed`);
}

/** The line of a place in a text, from 1. */
export function lineAt(text: string, index: number): number {
  let line = 1;
  for (let at = text.indexOf("\n"); at !== -1 && at < index; at = text.indexOf("\n", at + 1)) line++;
  return line;
}

/** PostgreSQL counts characters from 1, JavaScript UTF-16 units from 0. */
export function indexOfPosition(text: string, position: number): number {
  let index = 0;
  for (let count = 1; count < position && index < text.length; count++)
    index += text.codePointAt(index)! > 0xffff ? 2 : 1;
  return index;
}
