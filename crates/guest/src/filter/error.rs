use super::choice::key_of;
use super::store::FILTERS_DIR;

/// Why an interface's filters can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterProblem {
    /// There is no filter of this name.
    #[error(
        "There is no filter '{name}'{}{}",
        by.as_ref().map_or(String::new(), |by| format!(", to which filter '{by}' refers")),
        match meant {
            Some(meant) => format!("; did you mean '{meant}'?"),
            None => format!(": taptrail has none, and {FILTERS_DIR} has no {name}.xml or {name}.toml"),
        },
    )]
    Unknown {
        /// The filter's name, shortened.
        name: String,
        /// The filter that refers to it.
        by: Option<String>,
        /// The one that was probably meant.
        meant: Option<String>,
    },
    /// Its references lead back to it, or too deep.
    #[error("Filter '{name}' refers to itself through others, or is nested too deeply")]
    Loop {
        /// The filter's name, shortened.
        name: String,
    },
    /// More filters than an interface can have.
    #[error("The interface has more than {limit} filters, with those that they refer to")]
    TooManyFilters {
        /// How many it can have.
        limit: usize,
    },
    /// More rules than an interface can have.
    #[error("The interface's filters have {count} rules or more; {limit} are possible")]
    TooManyRules {
        /// How many there are at least.
        count: usize,
        /// How many it can have.
        limit: usize,
    },
    /// A variable without a value.
    #[error("Filter '{filter}' needs a value for ${name}: add {}", key_of(name))]
    Variable {
        /// The filter that has the variable.
        filter: String,
        /// The variable.
        name: String,
    },
    /// A variable that no filter of the interface has.
    #[error("No filter of the interface uses ${0}")]
    Unused(String),
    /// No way of learning addresses.
    #[error("'{0}' is no way to learn addresses: dhcp, any or none is needed")]
    Learning(String),
    /// Two ways of learning addresses.
    #[error("Addresses can be learnt in one way only: dhcp or any")]
    LearningTwice,
    /// Addresses are given, and to be learnt.
    #[error("With ip=, there is nothing to learn: leave out ip= or ip-learning=")]
    NothingToLearn,
    /// No filter uses the addresses.
    #[error("No filter of the interface uses $IP: leave out ip-learning=")]
    NothingLearns,
    /// A variable that has its value by itself.
    #[error("${0} has its value by itself, from the interface's MAC")]
    Reserved(String),
    /// Text that can't be a variable's name and value.
    #[error("'{0}' can't be a parameter: NAME=VALUE is needed")]
    NoParameter(String),
    /// More values than a variable can have.
    #[error("${name} has more than {limit} values")]
    TooManyValues {
        /// The variable.
        name: String,
        /// How many it can have.
        limit: usize,
    },

    /// A rule that can't be used.
    #[error("Rule {number} of filter '{filter}' can't be used")]
    Rule {
        /// The filter.
        filter: String,
        /// The rule's number in it, from 1.
        number: usize,
        /// Why not.
        #[source]
        source: Box<FilterProblem>,
    },
    /// A value that the attribute does not take.
    #[error("'{text}' can't be '{attribute}': {needed} is needed")]
    Value {
        /// The attribute.
        attribute: &'static str,
        /// The value, shortened.
        text: String,
        /// What it takes.
        needed: &'static str,
    },
    /// The end of a range, or a mask, without a value.
    #[error("'{0}' has no meaning without the attribute that it belongs to")]
    NoValue(&'static str),
    /// Two attributes that say the same.
    #[error("'{0}' contradicts another attribute")]
    Twice(&'static str),
    /// Variables of one iterator that have different numbers of values.
    #[error("${first} and ${second} have different numbers of values: use iterators, as in ${second}[@1]")]
    Unequal {
        /// The one variable.
        first: String,
        /// The other.
        second: String,
    },
    /// A value that the variable does not have.
    #[error("${name} has {count} values, and none of number {index} (counted from 0)")]
    NoItem {
        /// The variable.
        name: String,
        /// The number that the rule names.
        index: usize,
        /// How many values there are.
        count: usize,
    },
    /// Ports of a protocol that has none.
    #[error("Ports need a protocol that has them: tcp, udp, udplite or sctp")]
    PortsOfWhat,
    /// ICMPv6's fields without ICMPv6.
    #[error("ICMPv6's fields need protocol='icmpv6' and a type")]
    TypeOfWhat,
    /// nftables' rule would be for IPv4 as well.
    #[error("ICMPv6 without a type needs a chain of IPv6: give the filter chain='ipv6'")]
    Icmpv6InRoot,
    /// Connection tracking.
    #[error(
        "The rule depends on the state of connections, which the kernel does not track for single interfaces: \
         write state='NONE', and another rule for the answers, or statematch='false' for both"
    )]
    Stateful,
}
